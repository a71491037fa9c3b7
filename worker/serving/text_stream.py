"""Text of a completion, token by token: no half characters, and nothing that may belong to a stop string."""

from collections.abc import Sequence
from typing import Final

from tokenizers import Tokenizer

_CONTEXT: Final = 8
"""Prompt tokens that are decoded along: whether a token starts with a space can depend on the token before it."""
_LONGEST_CHARACTER: Final = 4
"""Bytes of the longest UTF-8 character, so the tokens that it can span."""
_UNDECODABLE: Final = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Receives the tokens of one completion."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt[-_CONTEXT:])
        self._start = 0
        """First token of the window that is decoded; everything before it cannot change later text."""
        self._read = len(self._ids)
        """Tokens whose text has been read."""
        self._stop = tuple(stop)
        self._held = ""
        """Text that is not released, because a stop string may start in it."""
        self.stopped_by: str | None = None
        """The stop string that occurred."""

    def push(self, token: int) -> str:
        """Return the text that becomes certain with the next token. Sets `stopped_by`."""
        self._ids.append(token)
        before, after = self._decoded(self._read), self._decoded(len(self._ids))
        is_partial = after.endswith(_UNDECODABLE) and len(self._ids) - self._read < _LONGEST_CHARACTER
        if is_partial or len(after) <= len(before):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return self._release(after[len(before) :])

    def finish(self) -> str:
        """Return the rest of the text; the completion has ended without a stop string."""
        before, after = self._decoded(self._read), self._decoded(len(self._ids))
        released = self._release(after[len(before) :])
        if self.stopped_by is None:
            released, self._held = released + self._held, ""
        return released

    def _decoded(self, end: int) -> str:
        return str(self._tokenizer.decode(self._ids[self._start : end], skip_special_tokens=False))

    def _release(self, text: str) -> str:
        if not self._stop:
            return text
        text = self._held + text
        found = [(text.index(stop), stop) for stop in self._stop if stop in text]
        if found:
            place, self.stopped_by = min(found)
            self._held = ""
            return text[:place]
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a start of `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
