"""Previews of rows as the model receives them: every token with its text, source and loss mask."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from app.core.chat.continuation import common_length
from app.core.chat.encoding import RowRules, encode
from app.core.chat.templates import TemplateRefused
from app.core.chat.tokenizer import ChatTokenizer, Piece, RenderedPrompt
from app.core.spec.rows import Row, RowError, parse_row

MAX_SHOWN_TOKENS: Final = 4_096
"""Most tokens shown per prompt or response; the rest are only counted."""
_MAX_BINS: Final = 24
_NO_LIMIT: Final = 1 << 62

Source = Literal["prompt", "expert", "teacher", "preferred", "non_preferred"]


@dataclass(frozen=True)
class Span:
    """The prompt, or one of its responses. In a conversation, prompts continue the response before them."""

    source: Source
    model: str | None
    """The model that wrote a teacher response, if the row names it."""
    piece: Piece
    """At most `MAX_SHOWN_TOKENS` tokens."""
    tokens: int
    """Number of all tokens."""
    fits: bool
    """Whether it is within the length limit (a response with its context); training skips it otherwise."""

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


def show(line: int, content: bytes, tokenizer: ChatTokenizer, rules: RowRules) -> ShownRow:
    """Preview the row on a line as a job with these rules trains it."""
    try:
        row = parse_row(content, line)
        spans = _turns(row, tokenizer, rules) if rules.turns == "all" else []
        if rules.takes_teacher or not spans:
            spans += _group(row, tokenizer, rules, with_turns=bool(spans))
        return ShownRow(line, tuple(spans))
    except (RowError, TemplateRefused) as error:
        return ShownRow(line, error=error.message)


def _turns(row: Row, tokenizer: ChatTokenizer, rules: RowRules) -> list[Span]:
    """Return each trained message after the context that the messages before it do not show yet."""
    spans: list[Span] = []
    shown: tuple[int, ...] = ()
    for index in row.trained:
        prompt = tokenizer.prompt(row.messages[:index], row.tools)
        context, answer, start = prompt.piece, *_answer(tokenizer, prompt, row.messages[index], rules)
        same = common_length(shown, context.ids)
        context = _joined(Piece(context.ids[same:], context.texts[same:]), _part(answer, 0, start))
        spans.append(_span("prompt", None, context, same, rules))
        spans.append(_span("expert", None, _part(answer, start), same + len(context.ids), rules))
        shown = (*prompt.ids, *answer.ids)
    return spans


def _group(row: Row, tokenizer: ChatTokenizer, rules: RowRules, *, with_turns: bool) -> Iterator[Span]:
    """Yield the prompt, then each answer to it; `with_turns` only those that are not shown as turns."""
    prompt = tokenizer.prompt(row.prompt_messages, row.tools)
    if not with_turns:
        yield _span("prompt", None, prompt.piece, 0, rules)
    for source, model, message in _answers(row):
        if with_turns and source == "expert":
            continue
        answer, start = _answer(tokenizer, prompt, message, rules)
        # Thoughts that are not trained are part of the answer's context.
        yield _span(source, model, _part(answer, start), len(prompt.ids) + start, rules)


def _answer(
    tokenizer: ChatTokenizer, prompt: RenderedPrompt, message: dict[str, Any], rules: RowRules
) -> tuple[Piece, int]:
    """Return the tokens of an answer, and how many of them are thoughts that are not trained."""
    answer = tokenizer.answer(prompt, message)
    return answer.piece, 0 if rules.train_reasoning else answer.content_start


def _answers(row: Row) -> Iterator[tuple[Source, str | None, dict[str, Any]]]:
    if row.demonstration is not None:
        yield "expert", None, row.demonstration
    for answer in row.teacher:
        yield "teacher", answer.model, {"role": "assistant", "content": answer.content}
    if row.preference is not None:
        yield "preferred", None, row.preference.preferred
        yield "non_preferred", None, row.preference.non_preferred


def _part(piece: Piece, start: int, stop: int | None = None) -> Piece:
    return Piece(piece.ids[start:stop], piece.texts[start:stop])


def _joined(first: Piece, second: Piece) -> Piece:
    return Piece((*first.ids, *second.ids), (*first.texts, *second.texts))


def _span(source: Source, model: str | None, piece: Piece, before: int, rules: RowRules) -> Span:
    shown = _part(piece, 0, MAX_SHOWN_TOKENS)
    return Span(source, model, shown, len(piece.ids), before + len(piece.ids) <= rules.max_length)


@dataclass(frozen=True)
class RowLength:
    """Token counts of one row."""

    line: int
    prompt: int
    answers: tuple[int, ...]
    total: int
    """The longest context with its answer."""


def measure(rows: Iterable[tuple[int, bytes]], tokenizer: ChatTokenizer, rules: RowRules) -> list[RowLength]:
    """Return the lengths of the rows, given by line number and content, that can be rendered."""
    unlimited = replace(rules, max_length=_NO_LIMIT)
    lengths = []
    for line, content in rows:
        try:
            encoded = encode(parse_row(content, line), tokenizer, unlimited)
        except (RowError, TemplateRefused):
            continue
        answers = [*encoded.turns, *(turn for _, turn in encoded.teacher), *(encoded.preference or ())]
        total = max([len(turn.context) + len(turn.ids) for turn in answers], default=len(encoded.prompt.ids))
        lengths.append(RowLength(line, len(encoded.prompt.ids), tuple(len(turn.ids) for turn in answers), total))
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
