"""Rows as a model reads them: every token with its text, where it comes from and whether it is trained."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from app.core.chat.templates import TemplateRefused
from app.core.chat.tokenizer import ChatTokenizer, Piece
from app.core.spec.rows import Row, RowError, parse_row

MAX_SHOWN_TOKENS: Final = 4_096
"""Of one prompt or response; the rest is counted."""
_MAX_BINS: Final = 24


@dataclass(frozen=True)
class Span:
    """The prompt, or one response to it."""

    source: str
    """`prompt`, `expert` or `teacher`."""
    model: str | None
    """Who wrote a teacher's response, where the row says so."""
    piece: Piece
    """At most `MAX_SHOWN_TOKENS`."""
    tokens: int
    """All of them."""
    fits: bool
    """Whether it is within the limit, a response together with its prompt; else training drops it."""

    @property
    def trained(self) -> bool:
        """Whether the loss sees its tokens: a response's all, its end too; a prompt's never."""
        return self.source != "prompt"


@dataclass(frozen=True)
class ShownRow:
    """One row, or why it cannot be shown."""

    line: int
    spans: tuple[Span, ...] = ()
    error: str | None = None


def show(line: int, content: bytes, tokenizer: ChatTokenizer, max_length: int) -> ShownRow:
    """The row on a line."""
    try:
        row = parse_row(content, line)
        prompt = tokenizer.prompt_piece(row.prompt_messages, list(row.tools) or None)
    except RowError as error:
        return ShownRow(line, error=error.message)
    except TemplateRefused as error:
        return ShownRow(line, error=error.message)
    before = len(prompt.ids)
    spans = [_span("prompt", None, prompt, 0, max_length)]
    spans += [
        _span(source, model, tokenizer.response_piece(text), before, max_length)
        for source, model, text in _answers(row)
    ]
    return ShownRow(line, tuple(spans))


def _answers(row: Row) -> Iterator[tuple[str, str | None, str]]:
    if row.expert is not None:
        yield "expert", None, row.expert
    for answer in row.teacher:
        yield "teacher", answer.model, answer.content


def _span(source: str, model: str | None, piece: Piece, before: int, max_length: int) -> Span:
    shown = Piece(piece.ids[:MAX_SHOWN_TOKENS], piece.texts[:MAX_SHOWN_TOKENS])
    return Span(source, model, shown, len(piece.ids), before + len(piece.ids) <= max_length)


@dataclass(frozen=True)
class RowLength:
    """How many tokens a row has."""

    line: int
    prompt: int
    answers: tuple[int, ...]

    @property
    def total(self) -> int:
        """With its longest answer."""
        return self.prompt + max(self.answers, default=0)


def measure(rows: Iterable[tuple[int, bytes]], tokenizer: ChatTokenizer) -> list[RowLength]:
    """The lengths of those rows, by line number and content, that can be rendered."""
    found = []
    for line, content in rows:
        try:
            row = parse_row(content, line)
            prompt = len(tokenizer.prompt_ids(row.prompt_messages, list(row.tools) or None))
        except (RowError, TemplateRefused):
            continue
        answers = tuple(len(tokenizer.response_ids(text)) for _, _, text in _answers(row))
        found.append(RowLength(line, prompt, answers))
    return found


@dataclass(frozen=True)
class Bin:
    """How many values are at least `start` and less than `end`."""

    start: int
    end: int
    count: int


@dataclass(frozen=True)
class Distribution:
    """Of token counts."""

    count: int
    total: int
    min: int
    median: int
    p95: int
    max: int
    bins: tuple[Bin, ...]
    """Of equal width, from 0 on, none left out."""

    @classmethod
    def of(cls, values: Sequence[int]) -> "Distribution | None":
        """None of nothing."""
        if not values:
            return None
        ordered = sorted(values)
        last = len(ordered) - 1
        width = _width(ordered[-1])
        counts = [0] * (ordered[-1] // width + 1)
        for value in ordered:
            counts[value // width] += 1
        return cls(
            count=len(ordered),
            total=sum(ordered),
            min=ordered[0],
            median=ordered[last // 2],
            p95=ordered[round(last * 0.95)],
            max=ordered[-1],
            bins=tuple(Bin(at * width, (at + 1) * width, count) for at, count in enumerate(counts)),
        )


def _width(largest: int) -> int:
    """1, 2 or 5 times a power of ten, so that there are at most `_MAX_BINS`."""
    width = 1
    while True:
        for factor in (1, 2, 5):
            if largest // (factor * width) < _MAX_BINS:
                return factor * width
        width *= 10
