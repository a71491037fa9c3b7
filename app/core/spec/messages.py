"""Validates and normalises the messages and tools of a row: OpenAI's form, its legacy forms, and Hugging Face's.

A normalised message has `role` and `content` (text, or None next to `tool_calls`), and where given `reasoning_content`,
`tool_calls`, `tool_call_id` and `name`. The `arguments` of tool calls are objects.
"""

from collections.abc import Sequence
from typing import Any, Final

from app.core.spec.json_lines import Refused, decode, quoted

_ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")
_PLAIN_ROLES: Final = ("user", "assistant", "system")
_THOUGHTS: Final = ("reasoning_content", "reasoning", "thinking")
"""Names of the field that holds the thoughts before an answer; the first is ours."""
_KNOWN: Final = frozenset(
    {"role", "content", "weight", "name", "tool_calls", "tool_call_id", "function_call", *_THOUGHTS}
)


class Conversation:
    """Normalises messages one after another; a tool result may belong to an earlier call."""

    def __init__(self, *, allows_empty: bool = False) -> None:
        """`allows_empty`: whether messages of users and assistants may be empty, as in requests for an answer."""
        self._allows_empty = allows_empty
        self.messages: list[dict[str, Any]] = []
        self.trained: list[int] = []
        """Indices of the assistant messages whose weight is not 0."""
        self.dropped: list[str] = []
        """Params of empty system messages, which are left out."""

    def add(self, written: Sequence[object], param: str) -> None:
        """Append the messages found at `param`. Raises `Refused`."""
        for index, message in enumerate(written):
            if isinstance(message, dict) and len(message) == 2:  # the most common form needs no further check
                role, content = message.get("role"), message.get("content")
                if role in _PLAIN_ROLES and isinstance(content, str) and content and not content.isspace():
                    if role == "assistant":
                        self.trained.append(len(self.messages))
                    self.messages.append({"role": role, "content": content})
                    continue
            self._add(message, f"{param}[{index}]")

    def _add(self, message: object, param: str) -> None:
        if not isinstance(message, dict):
            raise Refused(param, f"`{param}` must be an object with `role` and `content`")
        role = message.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            offered = ", ".join(_ROLES[:-1])
            raise Refused(f"{param}.role", f"`{param}.role` must be one of {offered}")
        for name, value in message.items():
            if name not in _KNOWN and not _is_absent(value):
                raise Refused(param, f"`{param}` has an unknown field {quoted(name)}; remove it")
        calls = _tool_calls(message, param)
        optional = self._allows_empty or bool(calls) or role in ("tool", "function", "system", "developer")
        content = _content(message.get("content"), f"{param}.content", optional=optional)
        if role in ("system", "developer") and not (content and content.strip()):
            self.dropped.append(param)
            return
        if _weight(message, param) and role == "assistant":
            self.trained.append(len(self.messages))
        # `developer` is OpenAI's newer name for `system`; chat templates of open models only support the latter.
        # `function` is the older name for `tool`.
        normal = {"developer": "system", "function": "tool"}.get(role, role)
        self.messages.append({"role": normal, "content": content, **self._details(message, calls, param)})

    def _details(self, message: dict[str, Any], calls: list[dict[str, Any]], param: str) -> dict[str, Any]:
        details: dict[str, Any] = {}
        if (thoughts := _thoughts(message, param)) is not None:
            details[_THOUGHTS[0]] = thoughts
        if calls:
            details["tool_calls"] = calls
        for name in ("name", "tool_call_id"):
            value = message.get(name)
            if value is not None and not isinstance(value, str):
                raise Refused(f"{param}.{name}", f"`{param}.{name}` must be a string")
            if value is not None:
                details[name] = value
        if message["role"] == "function" and "tool_call_id" not in details and (last := self._last_call_id()):
            details["tool_call_id"] = last
        return details

    def _last_call_id(self) -> str | None:
        calls = [call for message in self.messages for call in message.get("tool_calls", ())]
        return calls[-1].get("id") if calls else None


def read_tools(tools: object, param: str) -> tuple[dict[str, Any], ...]:
    """Return tool definitions; a text, usual in Hugging Face data sets, is parsed as JSON. Raises `Refused`."""
    if isinstance(tools, str):
        tools = _parsed(tools, param, "a JSON list of tool objects")
    if _is_absent(tools):
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise Refused(param, f"`{param}` must be a list of tool objects")
    return tuple(tools)


def read_functions(functions: object) -> tuple[dict[str, Any], ...]:
    """Return the definitions of the legacy field `functions` as tools. Raises `Refused`."""
    return tuple({"type": "function", "function": function} for function in read_tools(functions, "functions"))


def _is_absent(value: object) -> bool:
    """Return whether a value means that the field is not used, as in the dumps of client libraries."""
    return value is None or value == [] or value == {} or value == ""


def _weight(message: dict[str, Any], param: str) -> int:
    weight = message.get("weight")
    if weight is None:
        return 1
    if message["role"] != "assistant":
        raise Refused(f"{param}.weight", f"`{param}.weight` belongs on assistant messages only; remove it")
    if isinstance(weight, bool) or weight not in (0, 1):
        raise Refused(f"{param}.weight", f"`{param}.weight` must be 0 or 1")
    return int(weight)


def _thoughts(message: dict[str, Any], param: str) -> str | None:
    given = {name: message[name] for name in _THOUGHTS if not _is_absent(message.get(name))}
    if not given:
        return None
    name, value = next(iter(given.items()))
    if message["role"] != "assistant":
        raise Refused(f"{param}.{name}", f"`{param}.{name}` belongs on assistant messages only; remove it")
    if not isinstance(value, str):
        raise Refused(f"{param}.{name}", f"`{param}.{name}` must be a string")
    if any(other != value for other in given.values()):
        names = " and ".join(f"`{other}`" for other in given)
        raise Refused(f"{param}.{name}", f"`{param}` has different thoughts in {names}; keep one of them")
    return value


def _tool_calls(message: dict[str, Any], param: str) -> list[dict[str, Any]]:
    written, legacy = message.get("tool_calls"), message.get("function_call")
    if _is_absent(written) and _is_absent(legacy):
        return []
    name = "function_call" if _is_absent(written) else "tool_calls"
    param += f".{name}"
    if message["role"] != "assistant":
        raise Refused(param, f"`{param}` belongs on assistant messages only; remove it")
    if name == "function_call":
        return [_tool_call({"id": "call_0", "function": legacy}, param, of=legacy)]
    if not isinstance(written, list):
        raise Refused(param, f"`{param}` must be a list of tool calls")
    return [_tool_call(call, f"{param}[{index}]", of=call) for index, call in enumerate(written)]


def _tool_call(call: object, param: str, *, of: object) -> dict[str, Any]:
    function = call.get("function", of) if isinstance(call, dict) else None  # some data sets leave `function` out
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(name, str) or not name:
        raise Refused(param, f'`{param}` must be like {{"function": {{"name": "...", "arguments": "{{...}}"}}}}')
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        # Chat templates and inference servers write the object; left as text, it would be encoded twice.
        arguments = _parsed(arguments, f"{param}.function.arguments", "a JSON object") if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        where = f"{param}.function.arguments"
        raise Refused(where, f"`{where}` must be a JSON object of argument names and values")
    identifier = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**identifier, "type": "function", "function": {"name": name, "arguments": arguments}}


def _parsed(text: str, param: str, expected: str) -> Any:
    try:
        return decode(text, "")
    except Refused as refused:
        raise Refused(param, f"`{param}` must be {expected}: {refused.message}") from None


def _content(content: object, param: str, *, optional: bool) -> str | None:
    if isinstance(content, list):
        content = "".join(_block(block, f"{param}[{index}]") for index, block in enumerate(content))
    if content is not None and not isinstance(content, str):
        raise Refused(param, f"`{param}` must be a string or a list of text blocks")
    if not optional and (content is None or not content.strip()):
        raise Refused(param, f"`{param}` is empty; fill it in or remove the message")
    return content


def _block(block: object, param: str) -> str:
    text = block.get("text") if isinstance(block, dict) and block.get("type") == "text" else None
    if not isinstance(text, str):
        raise Refused(param, f'`{param}` must be {{"type": "text", "text": "..."}}: only text can be trained')
    return text
