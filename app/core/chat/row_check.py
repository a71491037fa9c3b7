"""Counts the rows of a file that a job can use, by rendering every row with the model's chat template.

Tokenising costs several times as much as rendering, and few rows come near the limit: the tokens of a row are counted
only if it has more bytes than the limit has tokens, and it is encoded as for training only if it is close to the limit.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict

from app.core.chat.answer_format import AnswerFormat
from app.core.chat.continuation import continuation
from app.core.chat.encoding import REASONS, Drop, RowRules, answers, encode
from app.core.chat.templates import TemplateRefused
from app.core.chat.tokenizer import ChatTokenizer
from app.core.plurals import are, plural
from app.core.spec.rows import Row

TOLERATED_SHARE: Final = 0.1
"""Share of lost rows above which a job warns."""
_BORDER: Final = 16
"""Tokens by which a prompt and its answer, each tokenised alone, may differ from both together."""
_CURES: Final = {
    Drop.template_refused: "Change the rows as the message says, or choose another base model.",
    Drop.prompt_too_long: "Shorten the prompts, raise hyperparameters.max_length (up to the model's context), or lower "
    "sampling.max_tokens.",
    Drop.answer_too_long: "Shorten the rows, or raise hyperparameters.max_length (up to the model's context).",
    Drop.no_answer: "Add an assistant message whose `weight` is not 0.",
}


class Omission(StrEnum):
    """What is missing of rows that are used."""

    answers = "answers"
    """Answers that are too long; the row has others."""
    parts = "parts"
    """Thoughts, or a part of the text, that the chat template does not write."""
    tools = "tools"
    """`tools` that the chat template does not show to the model."""
    tool_calls = "tool_calls"
    """Tool calls of earlier turns that the chat template does not write."""


_OMITTED: Final = {
    Omission.answers: "without an answer that is too long",
    Omission.parts: "without a part of the answer that the chat template does not write",
    Omission.tools: "without their `tools`, which the chat template does not show to the model",
    Omission.tool_calls: "without the tool calls of earlier turns, which the chat template does not write",
}


class FirstRow(BaseModel):
    """The first row that is lost or shortened for a reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    line: int
    message: str = ""


class RowCounts(BaseModel):
    """How many rows of a file a job can use, why it loses the others, and what it leaves out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    used: int
    dropped: dict[Drop, int] = {}
    """Rows lost, by reason."""
    omitted: dict[Omission, int] = {}
    """Used rows of which something is left out."""
    first: dict[Drop | Omission, FirstRow] = {}
    unread_variables: tuple[str, ...] = ()
    """Names in `chat_template_kwargs` that the chat template does not read."""

    @property
    def lost(self) -> int:
        """Number of rows that the job cannot use."""
        return sum(self.dropped.values())

    @property
    def is_worrying(self) -> bool:
        """Whether the job loses more rows than `TOLERATED_SHARE`."""
        return self.lost > TOLERATED_SHARE * (self.used + self.lost)

    def summary(self, name: str) -> str:
        """Return the lost rows of the file called `name` in words, without a full stop."""
        reasons = ", ".join(
            f"{count:,} {REASONS[reason]} (line {self.first[reason].line}: {self.first[reason].message})"
            for reason, count in self._by_frequency()
        )
        rows = plural(self.used + self.lost, "row")
        return f"{self.lost:,} of {rows} of the {name} {are(self.lost)} not used: {reasons}"

    def omissions(self, name: str) -> Iterator[tuple[Omission, str]]:
        """Yield what is left out of used rows, with a sentence."""
        for omission in Omission:
            if omission in self.omitted:
                rows = f"{self.omitted[omission]:,} of {plural(self.used + self.lost, 'row')} of the {name}"
                first = self.first[omission].line
                yield omission, f"{rows} are trained {_OMITTED[omission]} (the first is line {first})"

    def cure(self) -> str:
        """Return how to keep the rows that are lost for the most frequent reason."""
        return _CURES[self._by_frequency()[0][0]]

    def _by_frequency(self) -> list[tuple[Drop, int]]:
        return sorted(self.dropped.items(), key=lambda pair: (-pair[1], pair[0]))


def count_rows(rows: Iterable[tuple[int, Row]], tokenizer: ChatTokenizer, rules: RowRules) -> RowCounts:
    """Count the rows, given with their line numbers, that a job with these rules can use."""
    form = tokenizer.answer_format
    used = 0
    dropped: Counter[Drop] = Counter()
    omitted: Counter[Omission] = Counter()
    first: dict[Drop | Omission, FirstRow] = {}
    for line, row in rows:
        lost, message, missing = _check(row, tokenizer, rules, form)
        if lost is not None:
            dropped[lost] += 1
            first.setdefault(lost, FirstRow(line=line, message=message))
            continue
        used += 1
        for omission in missing:
            omitted[omission] += 1
            first.setdefault(omission, FirstRow(line=line))
    return RowCounts(
        used=used,
        dropped=dict(dropped),
        omitted=dict(omitted),
        first=first,
        unread_variables=tokenizer.templates.unread_variables,
    )


def _check(
    row: Row, tokenizer: ChatTokenizer, rules: RowRules, form: AnswerFormat
) -> tuple[Drop | None, str, set[Omission]]:
    """Return why the row is lost, a message about it, and what is left out if it is used."""
    missing: set[Omission] = set()
    if row.tools and not form.renders_tools:
        missing.add(Omission.tools)
    if not form.renders_tool_calls and any("tool_calls" in message for message in row.prompt_messages):
        missing.add(Omission.tool_calls)
    try:
        if _surely_fits(row, tokenizer, rules):
            return None, "", missing
        encoded = encode(row, tokenizer, rules)
    except TemplateRefused as error:
        return Drop.template_refused, error.message, missing
    if encoded.lost is not None:
        message = next((part.message for part in encoded.dropped if part.reason is encoded.lost), "it has no answer")
        return encoded.lost, message, missing
    for part in encoded.dropped:
        missing.add(Omission.parts if part.reason is Drop.not_written else Omission.answers)
    return None, "", missing


def _surely_fits(row: Row, tokenizer: ChatTokenizer, rules: RowRules) -> bool:
    """Return whether the renderings alone show that the row is used as a whole. Raises `TemplateRefused`.

    False only means that the row has to be encoded.
    """

    def fit(*texts: str, more: int = 0) -> bool:
        room = rules.max_length - more
        return sum(map(_most_tokens, texts)) <= room or sum(map(tokenizer.size, texts)) + _BORDER <= room

    templates, tools = tokenizer.templates, list(row.tools) or None
    prompt = templates.render(row.prompt_messages, tools, for_answer=True)
    if not fit(prompt, more=rules.max_new_tokens):
        return False
    is_used = rules.answers_later
    for before, message, _ in answers(row, rules):
        if tokenizer.spells_special_tokens(message):
            return False
        history = row.messages[:before]
        text = prompt if before == len(row.prompt_messages) else templates.render(history, tools, for_answer=True)
        rest = continuation(templates, history, message, tools, text)
        if rest.unwritten or not fit(text, rest.text):
            return False
        is_used = True
    return is_used


def _most_tokens(text: str) -> int:
    """Return an upper bound of the tokens of a rendering: each stands for at least one byte of it.

    A tokenizer may put a space of its own before the text, and an end may follow an answer that has none.
    """
    return len(text.encode("utf-8", "surrogatepass")) + 2
