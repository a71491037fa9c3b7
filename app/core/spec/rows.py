"""Parses and normalises one line of a training or validation file. No file access, tokens or grading here.

OpenAI's supervised and reinforcement files are valid without changes; `prompt`/`completion` is a short form.
"""

import json
import math
from typing import Annotated, Any, Final, NoReturn

from pydantic import BaseModel, ConfigDict, Field

MAX_LINE_BYTES: Final = 1_000_000
MAX_DEPTH: Final = 32
MAX_TEACHER_RESPONSES: Final = 256

_ROLES: Final = ("system", "developer", "user", "assistant", "tool")
_KEPT: Final = ("name", "tool_calls", "tool_call_id")
_KNOWN: Final = frozenset({"role", "content", "weight", *_KEPT})


class RowError(ValueError):
    """An unusable row; `str()` starts with its line number and says how to fix it."""

    def __init__(self, line: int, param: str | None, message: str) -> None:
        """`line` counts from 1; `param` is the path of the field, or None if the error concerns the whole line."""
        super().__init__(f"line {line}: {message}")
        self.line = line
        self.param = param
        self.message = message


class _Refused(Exception):
    """A RowError whose line is not known yet."""

    def __init__(self, param: str | None, message: str) -> None:
        super().__init__(message)
        self.param = param
        self.message = message


class TeacherResponse(BaseModel):
    """One answer of a stronger model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    content: Annotated[str, Field(min_length=1)]
    model: str | None = None
    """The model that wrote it; only for reports."""


class Row(BaseModel):
    """One prompt with its known answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt_messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    """Everything before the demonstration, ready for a chat template: `content` is text (None next to
    `tool_calls`), `developer` becomes `system`, and `weight` is removed.
    """
    expert: str | None = None
    """The demonstration; None in prompt-only rows."""
    teacher: tuple[TeacherResponse, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    item: dict[str, Any]
    """What graders read as `item.*`: every field as written except `teacher_responses` and `tools`;
    `messages` is set for the short form too.
    """
    unused_demonstration: str | None = None
    """Why the final assistant message is not trained, if the row has one."""

    @property
    def characters(self) -> int:
        """Total of the prompt and the longest answer."""
        longest = max([len(answer.content) for answer in self.teacher], default=0)
        prompt = sum([len(message["content"] or "") for message in self.prompt_messages])
        return prompt + max(longest, len(self.expert or ""))


def parse_row(raw: bytes | str, line: int) -> Row:
    """Parse the row on line `line` (from 1). Raises only RowError."""
    try:
        return _row(_load(raw))
    except _Refused as refused:
        raise RowError(line, refused.param, refused.message) from None


def quoted(text: str, limit: int = 60) -> str:
    """Return untrusted text shortened and escaped for an error message."""
    return ascii(text if len(text) <= limit else text[: limit - 3] + "...")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _Refused(None, f"the key {quoted(name)} appears twice in one object; keep one of them")
            seen.add(name)
    return result


def _constant(name: str) -> NoReturn:
    raise _Refused(None, f"{name} is not a JSON number; use null or leave the field out")


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _Refused(None, f"the number {quoted(digits)} is too large; write it as a string")
    return value


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)


def _load(raw: bytes | str) -> dict[str, Any]:
    text = _text(raw)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        hint = "each line must be one complete object" if text.strip() else "the line is empty"
        raise _Refused(None, f"invalid JSON at column {error.colno}: {error.msg}; {hint}") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # CPython limits the digits of an int to prevent quadratic parsing time
        raise _Refused(None, "a number has too many digits; write it as a string") from None
    # A line with fewer brackets than MAX_DEPTH cannot be too deep; this saves the walk for nearly every line.
    if text.count("{") + text.count("[") > MAX_DEPTH:
        _check_depth(value)
    if not isinstance(value, dict):
        raise _Refused(None, f"the line is a JSON {_kind(value)}; each line must be one object, like {{...}}")
    if "\\ud" in text.lower():
        _check_surrogates(value)
    return value


def _text(raw: bytes | str) -> str:
    try:
        encoded = raw.encode() if isinstance(raw, str) else raw
        if len(encoded) > MAX_LINE_BYTES:
            raise _Refused(None, f"the line has more than {MAX_LINE_BYTES:,} bytes; shorten or split the row")
        return encoded.decode()
    except UnicodeEncodeError:
        raise _Refused(None, "the line contains a lone surrogate; remove the character") from None
    except UnicodeDecodeError as error:
        raise _Refused(None, f"byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None


def _kind(value: object) -> str:
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")


def _too_deep() -> _Refused:
    return _Refused(None, f"objects and arrays are nested more than {MAX_DEPTH} deep; flatten the row")


def _check_depth(value: object) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        containers = (parent.values() if isinstance(parent, dict) else parent for parent in level)
        level = [child for container in containers for child in container if isinstance(child, dict | list)]
    if level:
        raise _too_deep()


def _check_surrogates(row: dict[str, Any]) -> None:
    for name, value in row.items():
        try:
            json.dumps([name, value], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            shown = quoted(name)[1:-1]
            raise _Refused(shown, f"`{shown}` contains half a surrogate pair; write both halves or neither") from None


def _row(raw: dict[str, Any]) -> Row:
    written = raw["messages"] if raw.get("messages") is not None else _short_form(raw)
    if not isinstance(written, list) or not written:
        raise _Refused("messages", "`messages` must be a non-empty list of {role, content} objects")
    messages = [_plain(message) or _message(message, f"messages[{index}]") for index, message in enumerate(written)]
    expert, unused = None, None
    if messages[-1]["role"] == "assistant":
        expert, unused = _demonstration(messages.pop(), written[-1])
        if not messages:
            raise _Refused("messages", "the row has only an assistant message; add the user message before it")
    elif all(message["role"] == "system" for message in messages):
        raise _Refused("messages", "the row has neither an assistant nor a user message; add one")
    return Row(
        prompt_messages=messages,
        expert=expert,
        teacher=_teacher(raw.get("teacher_responses")),
        tools=_tools(raw.get("tools")),
        item={name: value for name, value in raw.items() if name not in ("teacher_responses", "tools")}
        | {"messages": written},
        unused_demonstration=unused,
    )


def _short_form(raw: dict[str, Any]) -> list[dict[str, Any]]:
    prompt, completion = raw.get("prompt"), raw.get("completion")
    if prompt is None:
        raise _Refused(
            "messages",
            "the row has neither an assistant message nor a prompt; give it `messages` (a list of "
            "{role, content} objects) or `prompt` and `completion`",
        )
    for name, value in (("prompt", prompt), ("completion", completion)):
        if value is not None and not isinstance(value, str):
            raise _Refused(name, f"`{name}` must be a string; use `messages` for a conversation")
        if value is not None and not value.strip():
            raise _Refused(name, f"`{name}` is empty; fill it in or remove the row")
    answer = [] if completion is None else [{"role": "assistant", "content": completion}]
    return [{"role": "user", "content": prompt}, *answer]


def _plain(message: object) -> dict[str, Any] | None:
    """Return the message if it has the most common form; None means that `_message` must check it."""
    if isinstance(message, dict) and len(message) == 2:
        role, content = message.get("role"), message.get("content")
        if role in ("user", "assistant", "system") and isinstance(content, str) and content.strip():
            return {"role": role, "content": content}
    return None


def _message(message: object, param: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise _Refused(param, f"`{param}` must be an object with `role` and `content`")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise _Refused(f"{param}.role", f"`{param}.role` must be one of {', '.join(_ROLES)}")
    for name, value in message.items():
        if name not in _KNOWN and value is not None:
            raise _Refused(param, f"`{param}` has an unknown field {quoted(name)}; remove it")
    _check_weight(message, param)
    calls = message.get("tool_calls")
    if calls is not None and not (_is_objects(calls) and calls and role == "assistant"):
        param += ".tool_calls"
        raise _Refused(param, f"`{param}` must be a non-empty list of objects, on an assistant message")
    kept = {name: message[name] for name in _KEPT if message.get(name) is not None}
    may_be_empty = calls is not None or role == "tool"
    content = _content(message.get("content"), f"{param}.content", optional=may_be_empty)
    # `developer` is OpenAI's newer name for `system`; chat templates of open models only support the latter.
    return {"role": "system" if role == "developer" else role, "content": content, **kept}


def _check_weight(message: dict[str, Any], param: str) -> None:
    weight = message.get("weight")
    if weight is None:
        return
    if message["role"] != "assistant":
        raise _Refused(f"{param}.weight", f"`{param}.weight` belongs on assistant messages only; remove it")
    if isinstance(weight, bool) or weight not in (0, 1):
        raise _Refused(f"{param}.weight", f"`{param}.weight` must be 0 or 1")


def _content(content: object, param: str, *, optional: bool) -> str | None:
    if content is None and optional:
        return None
    if isinstance(content, list):
        content = "".join(_block(block, f"{param}[{index}]") for index, block in enumerate(content))
    if content is not None and not isinstance(content, str):
        raise _Refused(param, f"`{param}` must be a string or a list of text blocks")
    if not optional and (content is None or not content.strip()):
        raise _Refused(param, f"`{param}` is empty; fill it in or remove the message")
    return content


def _block(block: object, param: str) -> str:
    text = block.get("text") if isinstance(block, dict) and block.get("type") == "text" else None
    if not isinstance(text, str):
        raise _Refused(param, f'`{param}` must be {{"type": "text", "text": "..."}}: only text can be trained')
    return text


def _demonstration(message: dict[str, Any], written: dict[str, Any]) -> tuple[str | None, str | None]:
    if written.get("weight") == 0:
        return None, "the final assistant message has weight 0 and is not trained; the row is prompt-only"
    if message.get("tool_calls"):
        return None, "the final assistant message calls tools and is not trained; the row is prompt-only"
    return message["content"], None


def _teacher(responses: object) -> tuple[TeacherResponse, ...]:
    if responses is None:
        return ()
    name = "teacher_responses"
    if not isinstance(responses, list) or len(responses) > MAX_TEACHER_RESPONSES:
        raise _Refused(name, f"`{name}` must be a list of at most {MAX_TEACHER_RESPONSES} responses")
    return tuple(_teacher_response(response, f"{name}[{i}]") for i, response in enumerate(responses))


def _teacher_response(response: object, param: str) -> TeacherResponse:
    fields = {"content": response} if isinstance(response, str) else response
    if not isinstance(fields, dict) or not fields.keys() <= {"content", "model"}:
        raise _Refused(param, f"`{param}` must be a string, or an object with `content` and optionally `model`")
    content, model = fields.get("content"), fields.get("model")
    if not isinstance(content, str) or not content.strip():
        raise _Refused(param, f"`{param}` is empty or not text; fill it in or remove it")
    if model is not None and not isinstance(model, str):
        raise _Refused(f"{param}.model", f"`{param}.model` must be a string")
    return TeacherResponse(content=content, model=model)


def _tools(tools: object) -> tuple[dict[str, Any], ...]:
    if tools is None:
        return ()
    if not _is_objects(tools):
        raise _Refused("tools", "`tools` must be a list of tool objects")
    return tuple(tools)  # type: ignore[arg-type]


def _is_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)
