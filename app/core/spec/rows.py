"""Parses and normalises the rows of a training or validation file. No tokens or grading here.

OpenAI's supervised, preference and reinforcement files are valid without changes, as are TRL's columns: `messages`,
`prompt` and `completion`, or `prompt`, `chosen` and `rejected`, each as text or as a list of messages.
"""

import json
from collections.abc import Collection, Container, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from app.core.spec.json_lines import Refused, lines, load_object
from app.core.spec.messages import Conversation, read_functions, read_tools

MAX_TEACHER_RESPONSES: Final = 256
_SHOWN_LINES: Final = 10
_NOT_GRADED: Final = frozenset({"teacher_responses", "tools", "functions"})
"""Fields that graders cannot read as `item.*`."""


class RowError(ValueError):
    """An unusable row; `str()` starts with its line number and says how to fix it."""

    def __init__(self, line: int, param: str | None, message: str) -> None:
        """`line` counts from 1; `param` is the path of the field, or None if the error concerns the whole line."""
        super().__init__(f"line {line}: {message}")
        self.line = line
        self.param = param
        self.message = message


def shown_lines(numbers: Collection[int]) -> str:
    """Return the numbers of lines in words, the first ones if there are many: "lines 3, 17 and 40 more"."""
    first = sorted(set(numbers))
    shown, more = ", ".join(map(str, first[:_SHOWN_LINES])), len(first) - _SHOWN_LINES
    return f"line{'s' * (len(first) > 1)} {shown}" + (f" and {more:,} more" if more > 0 else "")


class TeacherResponse(NamedTuple):
    """One answer of a stronger model."""

    content: str
    model: str | None = None
    """The model that wrote it; only for reports."""


class Preference(NamedTuple):
    """Two answers to the same prompt, as assistant messages."""

    preferred: dict[str, Any]
    non_preferred: dict[str, Any]


class RowWarning(NamedTuple):
    """A part of a row that is not used, and why."""

    param: str
    message: str


class Row(NamedTuple):
    """One conversation with its known answers."""

    messages: list[dict[str, Any]]
    """The whole conversation, ready for a chat template; see `messages` for the fields."""
    trained: tuple[int, ...]
    """Indices of the assistant messages whose `weight` is not 0. Supervised methods train all of them."""
    item: dict[str, Any]
    """What graders read as `item.*`: every field as written except `teacher_responses` and `tools`; `messages` is set
    for the short forms too."""
    tools: tuple[dict[str, Any], ...] = ()
    teacher: tuple[TeacherResponse, ...] = ()
    preference: Preference | None = None
    """The two answers of a preference row, which trains nothing else."""
    warnings: tuple[RowWarning, ...] = ()

    @property
    def prompt_messages(self) -> list[dict[str, Any]]:
        """Everything before the final assistant message: what the model reads before it answers."""
        return self.messages[:-1] if self.messages[-1]["role"] == "assistant" else self.messages

    @property
    def demonstration(self) -> dict[str, Any] | None:
        """The final assistant message; None in prompt-only rows and if its weight is 0."""
        return self.messages[-1] if self.trained and self.trained[-1] == len(self.messages) - 1 else None

    @property
    def expert(self) -> str | None:
        """The demonstration as text, for graders and people."""
        return None if self.demonstration is None else answer_text(self.demonstration)

    @property
    def characters(self) -> int:
        """Total of the conversation, with the longest of its answers."""
        sizes = [_characters(message) for message in self.messages]
        if not self.teacher and self.preference is None:
            return sum(sizes)
        answers = [sizes.pop()] if self.messages[-1]["role"] == "assistant" else [0]
        answers += [len(answer.content) for answer in self.teacher]
        answers += [_characters(answer) for answer in self.preference or ()]
        return sum(sizes) + max(answers)


def parse_row(raw: bytes | str, line: int) -> Row:
    """Parse the row on line `line` (from 1). Raises only RowError."""
    try:
        return _row(load_object(raw))
    except Refused as refused:
        raise RowError(line, refused.param, refused.message) from None


def read_rows(path: Path, chosen: Container[int] | None = None) -> Iterator[tuple[int, Row]]:
    """Yield line number (from 1) and row, for each row of the file. Raises `RowError` at the first invalid line.

    With `chosen`, yields only rows whose index (from 0, not counting blank lines) is in it, and parses no others.
    """
    with path.open("rb") as stream:
        non_blank = ((line, raw) for line, _, raw in lines(stream) if raw.strip())
        for number, (line, raw) in enumerate(non_blank):
            if chosen is None or number in chosen:
                yield line, parse_row(raw, line)


def answer_text(message: dict[str, Any]) -> str:
    """Return the answer of an assistant message as text: its content, then its tool calls as JSON."""
    content = message["content"] or ""
    calls = message.get("tool_calls")
    if not calls:
        return content
    written = json.dumps([call["function"] for call in calls], ensure_ascii=False)
    return f"{content}\n{written}" if content else written


def _characters(message: dict[str, Any]) -> int:
    size = len(message["content"] or "")
    if len(message) > 2:  # more than role and content
        size += len(message.get("reasoning_content", ""))
        size += len(json.dumps(message["tool_calls"], ensure_ascii=False)) if "tool_calls" in message else 0
    return size


def _row(raw: dict[str, Any]) -> Row:
    written = raw.get("messages")
    if written is None:
        if _is_preference(raw):
            return _preference_row(raw)
        written = _short_form(raw)
    if not isinstance(written, list) or not written:
        raise Refused("messages", "`messages` must be a non-empty list of {role, content} objects")
    conversation = Conversation()
    conversation.add(written, "messages")
    messages, trained = conversation.messages, conversation.trained
    warnings = _dropped(conversation) if conversation.dropped else ()
    roles = {message["role"] for message in messages}
    if roles <= {"system"}:
        raise Refused("messages", "the row has neither an assistant nor a user message; add one")
    if messages[-1]["role"] == "assistant":
        if roles <= {"system", "assistant"}:
            raise Refused("messages", "the row has only an assistant message; add the user message before it")
        if not trained or trained[-1] != len(messages) - 1:
            warnings += (
                RowWarning("messages", "the final assistant message has weight 0 and is not trained as an answer"),
            )
    return Row(
        messages=messages,
        trained=tuple(trained),
        item=_item(raw, written),
        tools=_tools(raw) if "tools" in raw or "functions" in raw else (),
        teacher=_teacher(raw["teacher_responses"]) if raw.get("teacher_responses") is not None else (),
        warnings=warnings,
    )


def _item(raw: dict[str, Any], written: object) -> dict[str, Any]:
    item = {name: value for name, value in raw.items() if name not in _NOT_GRADED}
    item["messages"] = written
    return item


def _dropped(conversation: Conversation) -> tuple[RowWarning, ...]:
    return tuple(
        RowWarning(param, f"`{param}` is an empty system message and is left out") for param in conversation.dropped
    )


def _tools(raw: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    tools = read_tools(raw["tools"], "tools") if raw.get("tools") is not None else ()
    return tools or (read_functions(raw["functions"]) if raw.get("functions") is not None else ())


def _short_form(raw: dict[str, Any]) -> list[dict[str, Any]]:
    if raw.get("prompt") is None:
        raise Refused(
            "messages",
            "the row has neither an assistant message nor a prompt; give it `messages` (a list of "
            "{role, content} objects) or `prompt` and `completion`",
        )
    prompt = _messages_of(raw["prompt"], "prompt", "user")
    completion = raw.get("completion")
    return prompt if completion is None else [*prompt, *_messages_of(completion, "completion", "assistant")]


def _messages_of(value: object, param: str, role: str) -> list[dict[str, Any]]:
    """Return a text as one message of `role`, and a list of messages as it is. Raises `Refused`."""
    if isinstance(value, list) and value and all(isinstance(message, dict) for message in value):
        return value
    if not isinstance(value, str):
        raise Refused(param, f"`{param}` must be a string or a list of messages")
    if not value.strip():
        raise Refused(param, f"`{param}` is empty; fill it in or remove the row")
    return [{"role": role, "content": value}]


def _is_preference(raw: dict[str, Any]) -> bool:
    pairs = (("preferred_output", "non_preferred_output"), ("chosen", "rejected"))
    return any(raw.get(better) is not None and raw.get(worse) is not None for better, worse in pairs)


def _preference_row(raw: dict[str, Any]) -> Row:
    if raw.get("preferred_output") is not None:
        source = raw.get("input")
        if not isinstance(source, dict) or not isinstance(source.get("messages"), list):
            raise Refused("input.messages", "`input.messages` must be a list of {role, content} objects: the prompt")
        prompt, param, tools = source["messages"], "input.messages", _tools(source)
        better, worse = "preferred_output", "non_preferred_output"
    else:
        param, tools = "prompt", _tools(raw)
        prompt = [] if raw.get("prompt") is None else _messages_of(raw["prompt"], "prompt", "user")
        better, worse = "chosen", "rejected"
    outputs = [_messages_of(raw[name], name, "assistant") for name in (better, worse)]
    # TRL allows whole conversations as answers; what both begin with belongs to the prompt.
    shared = 0
    while shared + 1 < min(len(output) for output in outputs) and outputs[0][shared] == outputs[1][shared]:
        shared += 1
    if prompt and outputs[0][:shared][: len(prompt)] == prompt:  # both the column and the answers hold the prompt
        prompt = []
    conversation = Conversation()
    conversation.add(prompt, param)
    conversation.add(outputs[0][:shared], better)
    if not any(message["role"] in ("user", "tool") for message in conversation.messages):
        raise Refused(param, "the row has no prompt; add the user message that both answers reply to")
    if conversation.messages[-1]["role"] == "assistant":
        raise Refused(param, f"`{param}` must end with a user or tool message, because the answers come next")
    preferred, non_preferred = (
        _one_answer(output[shared:], f"{name}", shared) for name, output in zip((better, worse), outputs, strict=True)
    )
    if preferred == non_preferred:
        raise Refused(worse, f"`{better}` and `{worse}` are the same answer; remove the row")
    return Row(
        messages=conversation.messages,
        trained=(),
        item=_item(raw, [*prompt, *outputs[0][:shared]]),
        tools=tools,
        preference=Preference(preferred, non_preferred),
        warnings=_dropped(conversation),
    )


def _one_answer(output: list[dict[str, Any]], param: str, first: int) -> dict[str, Any]:
    answer = Conversation()
    answer.add(output, param)
    if len(answer.messages) != 1 or answer.messages[0]["role"] != "assistant":
        raise Refused(
            param,
            f"`{param}` must hold one assistant message" + (f" after the {first} that both share" if first else ""),
        )
    return answer.messages[0]


def _teacher(responses: object) -> tuple[TeacherResponse, ...]:
    name = "teacher_responses"
    if not isinstance(responses, list) or len(responses) > MAX_TEACHER_RESPONSES:
        raise Refused(name, f"`{name}` must be a list of at most {MAX_TEACHER_RESPONSES} responses")
    return tuple([_teacher_response(response, f"{name}[{i}]") for i, response in enumerate(responses)])


def _teacher_response(response: object, param: str) -> TeacherResponse:
    fields = {"content": response} if isinstance(response, str) else response
    if not isinstance(fields, dict) or not fields.keys() <= {"content", "model"}:
        raise Refused(param, f"`{param}` must be a string, or an object with `content` and optionally `model`")
    content, model = fields.get("content"), fields.get("model")
    if not isinstance(content, str) or not content.strip():
        raise Refused(param, f"`{param}` is empty or not text; fill it in or remove it")
    if model is not None and not isinstance(model, str):
        raise Refused(f"{param}.model", f"`{param}.model` must be a string")
    return TeacherResponse(content, model)
