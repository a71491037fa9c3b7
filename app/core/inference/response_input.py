"""Reads the input of the Responses API into the form of chat messages."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from app.core.errors import InvalidRequest
from app.core.inference.chat_messages import read_messages

_MESSAGE: Final = re.compile(r"\bmessages\.(\d+)(?:\.tool_calls\.(\d+)(?:\.function\b)?)?")
"""A path into the messages: the index of a message, and of one of its calls."""
_TEXTS: Final = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
"""Type of a content part -> the field with its text."""


def read_input(sent: str | Sequence[Any], instructions: str | None) -> list[dict[str, Any]]:
    """Return the messages of a request's `instructions` and `input`, as rows have them.

    Raises `InvalidRequest` whose `param` is a path into `input`.
    """
    reader = _Reader()
    if instructions:
        reader.add({"role": "system", "content": instructions}, "instructions")
    if isinstance(sent, str):
        reader.add({"role": "user", "content": sent}, "input")
    else:
        for index, item in enumerate(sent):
            reader.read(item, f"input.{index}")
    try:
        return read_messages(reader.messages)
    except InvalidRequest as error:
        raise reader.as_sent(error) from None


@dataclass
class _Reader:
    """Collects messages, and where each one comes from."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    params: list[str] = field(default_factory=list)
    calls: list[tuple[int, str]] = field(default_factory=list)
    """Of each call, the index of its message and where it comes from."""
    thoughts: str = ""
    """Of a reasoning item; they belong to the assistant's next message."""

    def add(self, message: dict[str, Any], param: str) -> None:
        self.messages.append(message)
        self.params.append(param)

    def read(self, item: Any, param: str) -> None:
        """Add one item."""
        if not isinstance(item, Mapping):
            raise InvalidRequest(f"'{param}' must be an object such as a message.", param=param)
        match item.get("type", "message"):
            case "message":
                self._message(item, param)
            case "function_call":
                self._call(item, param)
            case "function_call_output":
                output = _text(item.get("output"), f"{param}.output")
                if not isinstance(output, str):
                    raise InvalidRequest(
                        f"'{param}.output' must be a string or a list of text parts.", param=f"{param}.output"
                    )
                self.add({"role": "tool", "tool_call_id": item.get("call_id"), "content": output}, param)
            case "reasoning":
                parts = [*_parts(item, "content", param), *_parts(item, "summary", param)]
                texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
                self.thoughts += "".join(text for text in texts if isinstance(text, str))
            case "item_reference":
                raise _unstored(param, "items")
            case other:
                raise InvalidRequest(
                    f"'{param}.type' cannot be {str(other)[:64]!r}. Send messages, function calls with their outputs, "
                    "and reasoning.",
                    param=f"{param}.type",
                )

    def _message(self, item: Mapping[str, Any], param: str) -> None:
        role = item.get("role")
        if item.get("content") is None:
            raise InvalidRequest(
                f"'{param}.content' is missing. Add the text of the message.", param=f"{param}.content"
            )
        message = {"role": role, "content": _text(item.get("content"), f"{param}.content")}
        if role == "assistant":
            self._think(message)
        self.add(message, param)

    def _call(self, item: Mapping[str, Any], param: str) -> None:
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        self._add_call(call, param)
        self.calls.append((len(self.messages) - 1, param))

    def _add_call(self, call: dict[str, Any], param: str) -> None:
        last = self.messages[-1] if self.messages and not self.thoughts else {}
        if last.get("role") == "assistant":  # calls follow the text of the same answer
            last.setdefault("tool_calls", []).append(call)
        else:
            message: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [call]}
            self._think(message)
            self.add(message, param)

    def _think(self, message: dict[str, Any]) -> None:
        if self.thoughts:
            message["reasoning_content"], self.thoughts = self.thoughts, ""

    def as_sent(self, error: InvalidRequest) -> InvalidRequest:
        """Return the error with the paths of the request in place of those of the messages."""

        def place(match: re.Match[str]) -> str:
            index = int(match[1])
            if match[2] is None:
                return self.params[index]
            return [param for message, param in self.calls if message == index][int(match[2])]

        def sent(text: str) -> str:
            return _MESSAGE.sub(place, text).replace("tool_call_id", "call_id")

        param = "input" if error.param == "messages" else sent(error.param or "input")
        message = sent(error.message).replace("'messages'", "'input'")
        return InvalidRequest(message, param=param, code=error.code)


def _parts(item: Mapping[str, Any], name: str, param: str) -> Sequence[Any]:
    parts = item.get(name) or ()
    if isinstance(parts, Sequence) and not isinstance(parts, str):
        return parts
    raise InvalidRequest(f"'{param}.{name}' must be a list of text parts.", param=f"{param}.{name}")


def _text(content: Any, param: str) -> Any:
    """Return the text of a content; raises `InvalidRequest` for parts that are no text."""
    if not isinstance(content, list):
        return content
    return "".join(_part(part, f"{param}.{index}") for index, part in enumerate(content))


def _part(part: Any, param: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = part.get(_TEXTS[kind]) if isinstance(part, Mapping) and isinstance(kind, str) and kind in _TEXTS else None
    if isinstance(text, str):
        return text
    if kind in ("input_image", "input_file", "input_audio"):
        message = f"'{param}' has the type '{kind}', but models of this server read text only. Send text."
        raise InvalidRequest(message, param=param)
    raise InvalidRequest(f'\'{param}\' must be like {{"type": "input_text", "text": "..."}}.', param=param)


def _unstored(param: str, what: str) -> InvalidRequest:
    return InvalidRequest(
        f"'{param}' refers to stored {what}, but this server stores none. Send the whole conversation in 'input'.",
        param=param,
        code="unsupported_parameter",
    )
