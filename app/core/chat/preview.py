"""Previews of rows as the model receives them: every token with its text, source and loss mask."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from app.core.chat.templates import TemplateRefused
from app.core.chat.tokenizer import ChatTokenizer, Piece
from app.core.spec.rows import Row, RowError, parse_row

MAX_SHOWN_TOKENS: Final = 4_096
"""Most tokens shown per prompt or response; the rest are only counted."""
_MAX_BINS: Final = 24


@dataclass(frozen=True)
class Span:
    """The prompt, or one of its responses."""

    source: str
    """`prompt`, `expert` or `teacher`."""
    model: str | None
    """The model that wrote a teacher response, if the row names it."""
    piece: Piece
    """At most `MAX_SHOWN_TOKENS` tokens."""
    tokens: int
    """Number of all tokens."""
    fits: bool
    """Whether it is within the length limit (a response with its prompt); training skips it otherwise."""

    @property
    def trained(self) -> bool:
        """Whether its tokens count in the loss: those of a response including its end, never those of a prompt."""
        return self.source != "prompt"


@dataclass(frozen=True)
class ShownRow:
    """One row, or the reason why it cannot be shown."""

    line: int
    spans: tuple[Span, ...] = ()
    error: str | None = None


def show(line: int, content: bytes, tokenizer: ChatTokenizer, max_length: int) -> ShownRow:
    """Preview the row on a line."""
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
    """Token counts of one row."""

    line: int
    prompt: int
    answers: tuple[int, ...]

    @property
    def total(self) -> int:
        """The prompt with its longest answer."""
        return self.prompt + max(self.answers, default=0)


def measure(rows: Iterable[tuple[int, bytes]], tokenizer: ChatTokenizer) -> list[RowLength]:
    """Return the lengths of the rows, given by line number and content, that can be rendered."""
    lengths = []
    for line, content in rows:
        try:
            row = parse_row(content, line)
            prompt = len(tokenizer.prompt_ids(row.prompt_messages, list(row.tools) or None))
        except (RowError, TemplateRefused):
            continue
        answers = tuple(len(tokenizer.response_ids(text)) for _, _, text in _answers(row))
        lengths.append(RowLength(line, prompt, answers))
    return lengths


@dataclass(frozen=True)
class Bin:
    """Number of values from `start` (inclusive) to `end` (exclusive)."""

    start: int
    end: int
    count: int


@dataclass(frozen=True)
class Distribution:
    """A histogram of token counts."""

    count: int
    total: int
    min: int
    median: int
    p95: int
    max: int
    bins: tuple[Bin, ...]
    """Bins of equal width from 0 on, including empty ones."""

    @classmethod
    def of(cls, values: Sequence[int]) -> "Distribution | None":
        """Summarise token counts; None for no counts."""
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
    """Return a bin width of 1, 2 or 5 times a power of ten that gives at most `_MAX_BINS` bins."""
    width = 1
    while True:
        for factor in (1, 2, 5):
            if largest // (factor * width) < _MAX_BINS:
                return factor * width
        width *= 10
