"""Selects the log-probabilities of the tokens that an answer contains: those of its text.

Engines also report the tokens of the stop string and the end token, which they cut from the text.
"""

import codecs
from typing import Final

from app.core.chat.tokenizer import ChatTokenizer
from app.core.inference.engine_answers import ChoiceDelta, TokenLogprob

_UTF8: Final = codecs.getincrementaldecoder("utf-8")


class ReturnedTokens:
    """Reads one completion, whole or in pieces; the result does not depend on the pieces.

    While text is held back because a stop string may begin in it, so are its tokens. A token that the text contains in
    part counts.
    """

    def __init__(self, tokenizer: ChatTokenizer, *, has_stop: bool) -> None:
        """`has_stop`: whether the request has stop strings."""
        self._tokenizer = tokenizer
        self._has_stop = has_stop
        self._decoder = _UTF8("replace")
        self._read = 0
        """Characters of all tokens, the held ones included."""
        self._returned = 0
        """Characters of the text as far as it has arrived."""
        self._held: list[tuple[int, TokenLogprob]] = []
        """Tokens that may be cut off, each with the place of its first character."""

    def take(self, piece: ChoiceDelta) -> tuple[TokenLogprob, ...]:
        """Return the tokens that the text contains for certain once `piece` has arrived, each once."""
        found = [token for token in piece.logprobs or () if token.token_id not in self._tokenizer.end_ids]
        if not self._has_stop:
            return tuple(found)
        self._returned += len(piece.text)
        for token in found:
            self._held.append((self._read, token))
            self._read += len(self._decoder.decode(self._tokenizer.token_bytes.of(token.token_id)))
        is_whole = piece.finish_reason is not None and not isinstance(piece.stop_reason, str)
        count = sum(is_whole or start < self._returned for start, _ in self._held)
        taken, self._held = self._held[:count], self._held[count:]
        return tuple(token for _, token in taken)
