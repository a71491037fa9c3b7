"""Turns a row into the token sequences that a job trains on, or says why it cannot.

The trainer, the validation of jobs, previews and estimates all use `encode`, so they agree on every row.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple

from app.core.chat.tokenizer import ChatTokenizer, RenderedPrompt
from app.core.spec.answers import ParsedAnswer
from app.core.spec.job import JobSpec, PreferenceMethod
from app.core.spec.rows import Row, TeacherResponse, answer_text


class Drop(StrEnum):
    """Why a row or an answer is not used."""

    template_refused = "template_refused"
    prompt_too_long = "prompt_too_long"
    answer_too_long = "answer_too_long"
    not_written = "not_written"
    """The model's chat template does not write a part of the row; the rest of it is used."""
    no_answer = "no_answer"
    """The job learns from the answers of its rows, and the row has none."""
    demonstration_rejected = "demonstration_rejected"
    """The job learns from graded demonstrations, and that of the row is missing or does not pass the grader."""


REASONS: Final = {
    Drop.template_refused: "rejected by the model's chat template",
    Drop.prompt_too_long: "with a prompt that is too long",
    Drop.answer_too_long: "with an answer that is too long",
    Drop.not_written: "with a part that the chat template does not write",
    Drop.no_answer: "without an answer to learn from",
    Drop.demonstration_rejected: "without a demonstration that passes the grader",
}
"""The reasons in words, after a number of rows."""


class Dropped(NamedTuple):
    """A part of a row that is not used."""

    reason: Drop
    part: str
    """`row`, `tools`, `prompt`, `turn`, `demonstration`, `teacher_response`, `preferred` or `non_preferred`."""
    message: str


@dataclass(frozen=True)
class RowRules:
    """What a job takes from its rows."""

    turns: Literal["all", "last"]
    """Whether each trained assistant message of a row is an answer, or only the final one."""
    max_length: int
    """Most tokens of a context with its answer: the job's limit or the model's, whichever is smaller."""
    max_new_tokens: int = 1
    """Tokens that must fit behind the prompt: those of a rollout, or 1."""
    train_reasoning: bool = True
    """Whether the thoughts before an answer are trained; else they are part of its context."""
    takes_demonstration: bool = True
    takes_teacher: bool = True
    takes_pair: bool = True
    answers_later: bool = False
    """Whether rows need no answer of their own: rollouts or a teacher supply answers during training."""


def rules_of(spec: JobSpec, context_length: int | None) -> RowRules:
    """Return what a job takes from its training rows; `context_length` is the model's limit if it is known."""
    limit = spec.hyperparameters.max_length
    return RowRules(
        turns=spec.train_turns,
        max_length=min(limit, context_length or limit),
        max_new_tokens=spec.settings.sampling.max_tokens if spec.group.self_ else 1,
        train_reasoning=spec.settings.train_reasoning,
        takes_demonstration=bool(spec.group.expert),
        takes_teacher=bool(spec.group.teacher),
        takes_pair=isinstance(spec.settings, PreferenceMethod),
        answers_later=bool(spec.group.self_ or spec.teacher is not None),
    )


def held_out_rules(spec: JobSpec, context_length: int | None) -> RowRules:
    """Return what a job takes from its held-out rows: each must leave room for an answer of the model."""
    rules = rules_of(spec, context_length)
    return replace(
        rules,
        max_new_tokens=spec.settings.sampling.max_tokens,
        takes_demonstration=not rules.takes_pair,
        # Without a grader nothing is measured on a row that has no answer or pair of its own.
        answers_later=spec.settings.grader is not None,
    )


@dataclass(frozen=True)
class Turn:
    """One trained answer."""

    context: tuple[int, ...]
    """The tokens that the model reads before it."""
    ids: tuple[int, ...]
    """The trained tokens, one end token included."""
    text: str
    """The answer for people."""
    parts: ParsedAnswer | None = None
    """The answer for graders; None if they read `text`."""
    unwritten: tuple[str, ...] = ()
    """Parts of the message that the chat template leaves out: `thoughts`, or (a part of) the `text`."""


@dataclass(frozen=True)
class EncodedRow:
    """The token sequences of a row. Parts that do not fit are missing, and listed in `dropped`."""

    prompt: RenderedPrompt
    """The chat before the final answer."""
    turns: tuple[Turn, ...]
    """The trained assistant messages in order; only the demonstration if the job trains only the final turn."""
    teacher: tuple[tuple[TeacherResponse, Turn], ...]
    preference: tuple[Turn, Turn] | None
    """The preferred and the non-preferred answer, if the job learns from pairs."""
    dropped: tuple[Dropped, ...]
    lost: Drop | None
    """Why the job cannot use the row at all; None if it can."""


def turn(tokenizer: ChatTokenizer, prompt: RenderedPrompt, message: dict[str, Any], rules: RowRules) -> Turn:
    """Encode an answer to a prompt. Raises `TemplateRefused`."""
    answer = tokenizer.answer(prompt, message)
    start = 0 if rules.train_reasoning else answer.content_start
    context = (*prompt.ids, *answer.ids[:start])
    parts = tokenizer.parts(message, prompt.tools)
    is_plain = not (parts.reasoning or parts.tool_calls)
    text = answer_text(message) if is_plain else tokenizer.text(answer.ids[start:])
    return Turn(context, answer.ids[start:], text, parts, answer.unwritten)


def encode(row: Row, tokenizer: ChatTokenizer, rules: RowRules) -> EncodedRow:
    """Encode a row. Raises `TemplateRefused` if the model's chat template rejects it.

    An answer that exceeds the limit is dropped, never cut: without its end it would be graded 0 and trained down.
    """
    prompt = tokenizer.prompt(row.prompt_messages, row.tools)
    dropped: list[Dropped] = []
    room = len(prompt.ids) + rules.max_new_tokens
    if (rules.answers_later or rules.max_new_tokens > 1) and room > rules.max_length:
        too_long = _too_long(Drop.prompt_too_long, "prompt", room, rules)
        return EncodedRow(prompt, (), (), None, (too_long,), Drop.prompt_too_long)

    def fitting(found: Turn, part: str) -> Turn | None:
        length = len(found.context) + len(found.ids)
        if length <= rules.max_length:
            dropped.extend(_unwritten(left_out, part) for left_out in found.unwritten)
            return found
        reason = Drop.prompt_too_long if len(found.context) >= rules.max_length else Drop.answer_too_long
        dropped.append(_too_long(reason, part, length, rules))
        return None

    turns = [
        kept
        for before, message, part in (_trained(row, rules) if rules.takes_demonstration else ())
        if (kept := fitting(turn(tokenizer, _prompt(tokenizer, prompt, before, row), message, rules), part))
    ]
    teacher = [
        (response, kept)
        for response in (row.teacher if rules.takes_teacher else ())
        if (kept := fitting(turn(tokenizer, prompt, _assistant(response), rules), "teacher_response"))
    ]
    pair = None
    if rules.takes_pair and row.preference is not None:
        both = [
            fitting(turn(tokenizer, prompt, message, rules), part)
            for message, part in zip(row.preference, ("preferred", "non_preferred"), strict=True)
        ]
        pair = (both[0], both[1]) if both[0] is not None and both[1] is not None else None
    lost = None
    if not (turns or teacher or pair or rules.answers_later):
        lost = next((part.reason for part in dropped), Drop.no_answer)
    dropped.extend(_unseen(row, tokenizer))
    return EncodedRow(prompt, tuple(turns), tuple(teacher), pair, tuple(dropped), lost)


def answers(row: Row, rules: RowRules) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Yield every answer that `encode` encodes: the number of messages before it, the message, and what it is."""
    if rules.takes_demonstration:
        yield from _trained(row, rules)
    final = len(row.prompt_messages)
    for response in row.teacher if rules.takes_teacher else ():
        yield final, _assistant(response), "teacher_response"
    if rules.takes_pair and row.preference is not None:
        yield final, row.preference.preferred, "preferred"
        yield final, row.preference.non_preferred, "non_preferred"


def _trained(row: Row, rules: RowRules) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Yield the answers that the job trains: the number of messages before each, the message, and what it is."""
    final = len(row.messages) - 1
    for index in row.trained:
        if index == final:
            yield index, row.messages[index], "demonstration"
        elif rules.turns == "all":
            yield index, row.messages[index], "turn"


def _prompt(tokenizer: ChatTokenizer, prompt: RenderedPrompt, before: int, row: Row) -> RenderedPrompt:
    return prompt if before == len(prompt.messages) else tokenizer.prompt(row.messages[:before], row.tools)


def _assistant(response: TeacherResponse) -> dict[str, Any]:
    return {"role": "assistant", "content": response.content}


def _unseen(row: Row, tokenizer: ChatTokenizer) -> Iterator[Dropped]:
    """Yield what the prompt lacks because the template does not write it."""
    if row.tools and not tokenizer.answer_format.renders_tools:
        message = (
            "the model's chat template does not write `tools`, so the model does not see them; use a model whose "
            "template does, or describe the tools in the system message"
        )
        yield Dropped(Drop.not_written, "tools", message)
    has_calls = any("tool_calls" in message for message in row.prompt_messages)
    if has_calls and not tokenizer.answer_format.renders_tool_calls:
        message = "the model's chat template does not write tool calls, so the model does not see those of the prompt"
        yield Dropped(Drop.not_written, "prompt", message)


def _unwritten(left_out: str, part: str) -> Dropped:
    name = part.replace("_", " ")
    shown = "a part of the text" if left_out == "text" else left_out
    message = f"the model's chat template does not write {shown}, so the {name} is trained without"
    return Dropped(Drop.not_written, part, message)


def _too_long(reason: Drop, part: str, tokens: int, rules: RowRules) -> Dropped:
    if part == "prompt":
        return Dropped(
            reason,
            part,
            f"the prompt's {tokens - rules.max_new_tokens:,} tokens plus {rules.max_new_tokens:,} to generate exceed "
            f"{rules.max_length:,} tokens; shorten the prompt or raise hyperparameters.max_length",
        )
    name = part.replace("_", " ")
    message = f"the {name} has {tokens:,} tokens with its prompt, which exceeds {rules.max_length:,}"
    return Dropped(reason, part, message)
