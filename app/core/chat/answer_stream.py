"""Reads an answer while the model writes it: thoughts, text and tool calls, by the format of the model's template.

Text is held back only where it is undecided: the start of a mark, whitespace that a mark may follow, an unfinished
call. So the result does not depend on how the text is cut, and a whole answer is read by the same rules.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from app.core.chat.call_format import Call, CallFormat, parameter_types, prefixes
from app.core.chat.literals import read_json, skip_space

_MAX_MALFORMED: Final = 32
"""Unreadable calls of one text after which the rest is plain text; keeps reading linear in the text's length."""
_NEVER: Final = r"(?!)"
_PART_OF_MARK: Final = re.compile(r"\w[^\w\s]|[^\w\s]\w")
_GUARD: Final = "\0"
"""Stands for the text that is still missing, so that a pattern for the end of a text does not match its current end."""


@dataclass(frozen=True)
class AnswerDelta:
    """What some more text adds to an answer."""

    reasoning: str = ""
    content: str = ""
    calls: tuple[Call, ...] = ()
    """Whole calls; each is reported once, as soon as it is complete."""


@dataclass(frozen=True)
class AnswerMarks:
    """What stands around the parts of an answer."""

    thoughts: tuple[str, str] | None
    """What stands before and after the thoughts; None if the model has none."""
    opened: str
    """What the generation prompt already writes of the thoughts, such as `<think>`."""
    content_start: str
    content_end: str
    calls: CallFormat | None
    """None if the template writes no tool calls, or none that can be read."""

    @cached_property
    def text_or_call(self) -> re.Pattern[str]:
        """Matches what ends a piece of text: the opening of a call (group 1), or `content_end`."""
        opener = "".join(self.calls.opener) if self.calls else ""
        return re.compile(f"({opener or _NEVER})|{re.escape(self.content_end) or _NEVER}")

    def undecided(self, *, after_call: bool) -> re.Pattern[str]:
        """Return a pattern for the end of a text that may be the start of a mark."""
        return self._undecided_after_call if after_call else self._undecided

    @cached_property
    def _undecided(self) -> re.Pattern[str]:
        return _at_end(self._starts)

    @cached_property
    def _undecided_after_call(self) -> re.Pattern[str]:
        closing = [*map(re.escape, self.calls.closing.strip())] if self.calls else []
        return _at_end([*self._starts, *([prefixes([*closing, r"\s*+"])] if closing else [])])

    @property
    def _starts(self) -> list[str]:
        marks = [[*map(re.escape, self.content_end)], self.calls.opener if self.calls else []]
        return [prefixes(mark) for mark in marks if mark]


def _at_end(starts: list[str]) -> re.Pattern[str]:
    return re.compile(rf"(?:{'|'.join(starts)})\Z" if starts else _NEVER)


@dataclass
class _Piece:
    """Text between thoughts, calls and the end. Whitespace at its ends is written only if text follows."""

    keeps_start: bool
    gap: str = ""
    is_empty: bool = True

    def add(self, text: str) -> str:
        """Return what can be written now."""
        body = text.rstrip()
        if not body:
            self.gap += text
            return ""
        written = self.gap + body
        self.gap = text[len(body) :]
        written = written if self.keeps_start or not self.is_empty else written.lstrip()
        self.is_empty = False
        return written

    def end(self) -> str:
        """Return the whitespace that was held back."""
        gap, self.gap = self.gap, ""
        return gap if self.keeps_start or not self.is_empty else ""


@dataclass
class _Written:
    """Collects one delta."""

    reasoning: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)


class AnswerStream:
    """Reads one answer. Never raises."""

    def __init__(
        self,
        marks: AnswerMarks,
        tools: Sequence[dict[str, Any]] | None = None,
        opened: str | None = None,
        *,
        reads_calls: bool = True,
        ends_with_call: bool = False,
    ) -> None:
        """`tools` are those of the prompt: their parameters say which values are text where the format does not.

        `opened` replaces what the generation prompt wrote of the thoughts. Without `reads_calls`, calls stay text; with
        `ends_with_call`, the answer ends with its first call.
        """
        self._marks = marks
        self._calls = marks.calls if reads_calls else None
        self._ends_with_call = ends_with_call
        self._types = parameter_types(tools or [])
        self._text = marks.opened if opened is None else opened
        self._at = 0
        """Position in `_text`: everything before it is decided."""
        self._is_ended = self._is_cut = False
        self._has_thoughts = self._has_calls = self._is_past_end = False
        self._is_following = False
        """Whether the call that is being read directly follows another one."""
        self._call_start = self._tried = self._malformed = 0
        self._piece = _Piece(keeps_start=False)
        self._written = _Written()
        self._advance: Callable[[], bool] = self._open_thoughts
        """Reads the current part; returns False if it needs more text."""

    def feed(self, text: str) -> AnswerDelta:
        """Return what `text`, the continuation of the answer, adds."""
        self._text += text
        self._written = _Written()
        while self._advance():
            pass
        self._forget(self._call_start if self._advance == self._read_call else self._at)
        written = self._written
        return AnswerDelta("".join(written.reasoning), "".join(written.content), tuple(written.calls))

    def finish(self, text: str = "", *, is_cut: bool = False) -> AnswerDelta:
        """Return what `text`, the last part of the answer, adds, and what was held back.

        `is_cut`: the model had no tokens left. An unfinished call is then left out: clients would show it as text, or
        call a function with a part of its arguments.
        """
        self._is_ended, self._is_cut = True, is_cut
        return self.feed(text)

    def _forget(self, count: int) -> None:
        """Drop characters that no later step reads."""
        self._text = self._text[count:]
        self._at -= count
        self._tried -= count
        self._call_start -= count

    def _open_thoughts(self) -> bool:
        if self._marks.thoughts is None:
            self._advance = self._open_content
            return True
        start = self._marks.thoughts[0]
        if (after := self._skip(start, skip_space(self._text, self._at))) is None:
            return False
        self._has_thoughts = after > 0
        self._at = max(self._at, after)
        self._advance = self._think if self._has_thoughts else self._open_content
        return True

    def _skip(self, mark: str, at: int) -> int | None:
        """Return the position after a mark that stands at `at`, -1 if it does not, or None if more text decides."""
        if self._text.startswith(mark, at):
            return at + len(mark)
        return None if not self._is_ended and mark.startswith(self._text[at:]) else -1

    def _think(self) -> bool:
        end = self._marks.thoughts[1] if self._marks.thoughts else ""
        found = self._text.find(end, self._at)
        stop = found if found >= 0 else len(self._text) if self._is_ended else self._held(end)
        self._written.reasoning.append(self._piece.add(self._text[self._at : stop]))
        self._at = stop
        if found < 0:
            return False
        self._at += len(end)
        self._advance = self._open_content
        return True

    def _held(self, mark: str) -> int:
        """Return the first position from which the text may be the start of the mark."""
        first = max(self._at, len(self._text) - len(mark) + 1)
        return next((at for at in range(first, len(self._text)) if mark.startswith(self._text[at:])), len(self._text))

    def _open_content(self) -> bool:
        start = self._marks.content_start
        if self._has_thoughts:  # the whitespace between thoughts and text belongs to neither
            start = start.strip()
        if not self._open_with(start):
            return False
        self._piece = _Piece(keeps_start=not self._has_thoughts)
        self._advance = self._open_calls
        return True

    def _open_with(self, mark: str) -> bool:
        """Leave out a mark before the text; return False if more text decides whether it is there."""
        after = self._skip(mark, skip_space(self._text, self._at) if mark.strip() else self._at)
        if after is not None:
            self._at = max(self._at, after)
        return after is not None

    def _open_calls(self) -> bool:
        if self._calls is not None and not self._calls.is_marked:
            return self._open_json()
        if self._calls is not None and not self._open_with(self._calls.text_start):
            return False
        self._advance = self._write
        return True

    def _open_json(self) -> bool:
        """Prepare to read a whole answer as a call, if it is an object; return False if more text decides."""
        at = skip_space(self._text, self._at)
        if at == len(self._text) and not self._is_ended:
            return False
        if self._types and self._text.startswith("{", at):
            self._advance = self._read_json
        else:
            self._write_all()
        return True

    def _write_all(self) -> None:
        self._calls = None
        self._advance = self._write

    def _read_json(self) -> bool:
        """Read an answer that is an object and nothing but calls of declared tools; any other is text."""
        if self._calls is None or (not self._is_ended and self._may_be_call(self._calls)):
            return False
        found, end = self._calls.section(self._text, self._at, self._types) if self._is_ended else ([], self._at)
        if found and all(call.name in self._types for call in found):
            self._written.calls += found[:1] if self._ends_with_call else found
            self._start_piece_after_call(end)
            self._advance = self._drop if self._ends_with_call else self._write
        elif self._is_cut and self._calls.names_function(self._text, self._at, self._types):
            self._advance = self._drop
        else:
            self._write_all()
        return True

    def _may_be_call(self, calls: CallFormat) -> bool:
        if self._text.find("}", max(self._tried, self._at)) < 0:
            return True
        self._tried = len(self._text)
        try:
            read_json(self._text, self._at)
        except ValueError:
            return True
        found, _ = calls.section(self._text, self._at, self._types)
        return bool(found) and found[0].name in self._types

    def _write(self) -> bool:
        """Write text up to the next call, the end, or what may become one of them."""
        mark = self._next_mark()
        if mark is None:
            self._write_rest()
            return False
        self._add(self._text[self._at : mark.start()])
        self._at = mark.end()
        if mark[1] is None:
            self._end_piece()
            self._is_past_end = True
        else:
            self._call_start, self._tried = mark.start(), mark.end()
            self._is_following = False
            self._advance = self._read_call
        return True

    def _next_mark(self) -> re.Match[str] | None:
        for mark in self._marks.text_or_call.finditer(self._text, self._at):
            if not self._is_past_end if mark[1] is None else self._calls is not None:
                return mark
        return None

    def _write_rest(self) -> None:
        stop = len(self._text)
        undecided = self._marks.undecided(after_call=self._has_calls).search(self._text, self._at)
        if undecided and (not self._is_ended or self._is_cut_mark(undecided[0])):
            stop = undecided.start()
        elif self._is_ended and self._has_calls and self._calls and (closing := self._calls.closing.strip()):
            rest = self._text[self._at :].rstrip()
            stop = self._at + len(rest.removesuffix(closing))
        self._add(self._text[self._at : stop])
        self._at = len(self._text) if self._is_ended else stop
        if self._is_ended:
            self._end_piece()

    def _is_cut_mark(self, text: str) -> bool:
        """Return whether the end of an answer that was cut is a part of a mark, and not just a word or a bracket."""
        return self._is_cut and self._calls is not None and _PART_OF_MARK.search(text) is not None

    def _add(self, text: str) -> None:
        if self._is_past_end:
            return
        self._written.content.append(self._piece.add(text))
        if self._calls is None:
            self._end_piece()

    def _end_piece(self) -> None:
        """Write the whitespace at the end of an answer without calls: it belongs to the text."""
        if not self._has_calls and not self._is_past_end:
            self._written.content.append(self._piece.end())

    def _read_call(self) -> bool:
        """Read the call at the current position; what cannot be read is text."""
        if self._calls is None or (not self._is_ended and not self._is_call_due()):
            return False
        source = self._text if self._is_ended else self._text + _GUARD
        try:
            call, end = self._calls.read(source, self._at, self._types)
        except ValueError:
            may_start = self._calls.syntax.may_start(self._text, self._at)
            if may_start and not self._is_ended:
                return False
            if may_start and self._is_cut:
                self._advance = self._drop
            else:
                self._refuse_call()
        else:
            self._written.calls.append(call)
            self._start_piece_after_call(end)
            self._advance = self._drop if self._ends_with_call else self._follow_call
        return True

    def _is_call_due(self) -> bool:
        """Return whether new text may have completed the call, or shown that it is none."""
        if self._calls is None or not self._calls.syntax.may_start(self._text, self._at):
            return True
        last = self._calls.tail.strip()[-1:] or "}"
        is_due = self._text.find(last, self._tried) >= 0
        self._tried = len(self._text)
        return is_due

    def _refuse_call(self) -> None:
        """Go back to the start of a call that cannot be read: its opening is text."""
        self._advance = self._write
        if self._is_following:
            self._at = self._call_start
            return
        self._malformed += 1
        if self._malformed >= _MAX_MALFORMED:
            self._calls = None
        self._add(self._text[self._call_start : self._at])

    def _drop(self) -> bool:
        self._at = len(self._text)
        return False

    def _start_piece_after_call(self, at: int) -> None:
        self._at = at
        self._has_calls, self._is_past_end = True, False
        self._piece = _Piece(keeps_start=False)

    def _follow_call(self) -> bool:
        """Read what stands behind a call: the closing mark, another call, or text."""
        is_ended = self._is_ended and not self._is_cut
        found = self._calls.follow(self._text, self._at, is_ended=is_ended) if self._calls else (self._at, False)
        if found is None:
            return False
        after, self._is_following = found
        self._call_start, self._tried = self._at, after
        self._at = after
        self._advance = self._read_call if self._is_following else self._write
        return True
