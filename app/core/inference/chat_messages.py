"""Reads the messages of a chat request, in OpenAI's forms, into the form of rows."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.core.errors import InvalidRequest
from app.core.spec.json_lines import Refused
from app.core.spec.messages import Conversation

_INDEX: Final = re.compile(r"\[(\d+)\]")
_WITHOUT_EFFECT: Final = ("refusal", "annotations", "audio")
"""Fields of OpenAI's answers that clients send back; a refusal is read as text."""


def read_messages(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the messages as rows have them. Raises `InvalidRequest` whose `param` is a dotted path."""
    conversation = Conversation(allows_empty=True)
    plain = [_plain(message, f"messages.{index}") for index, message in enumerate(messages)]
    try:
        conversation.add(plain, "messages")
    except Refused as refused:
        # Rows name `messages[1]`, requests `messages.1`.
        message, param = (_INDEX.sub(r".\1", text) for text in (refused.message, refused.param or "messages"))
        raise InvalidRequest(f"{message}.", param=param) from None
    _check_results(messages)
    if not conversation.messages:
        raise InvalidRequest("'messages' has no text. Add at least one message of a user.", param="messages")
    return conversation.messages


def _check_results(messages: Sequence[Any]) -> None:
    """Raises `InvalidRequest` for a tool's message that answers no earlier call. Rows may have such messages."""
    called: set[Any] = set()
    for index, message in enumerate(messages):
        called.update(call.get("id") for call in message.get("tool_calls") or ())
        if message["role"] != "tool":
            continue
        param, answered = f"messages.{index}.tool_call_id", message.get("tool_call_id")
        if not answered:
            raise InvalidRequest(f"'{param}' is missing. Add the id of the call that the message answers.", param=param)
        if answered not in called:
            raise InvalidRequest(
                f"'{param}' is '{answered}', but no assistant message before it has a call with that id. Send the "
                "message with the call, too.",
                param=param,
            )


def _plain(message: Any, param: str) -> Any:
    """Return a message with text as content. Raises `InvalidRequest` for parts that are no text."""
    if not isinstance(message, Mapping):
        return message
    if isinstance(message.get("audio"), Mapping):
        raise InvalidRequest(f"'{param}.audio': models of this server read text only.", param=f"{param}.audio")
    plain = {name: value for name, value in message.items() if name not in _WITHOUT_EFFECT}
    content = plain.get("content")
    if isinstance(content, list):
        plain["content"] = "".join(_text(part, f"{param}.content.{index}") for index, part in enumerate(content))
    elif content is None and isinstance(message.get("refusal"), str):
        plain["content"] = message["refusal"]
    elif content is None and message.get("role") == "assistant":
        if not (message.get("tool_calls") or message.get("function_call")):
            plain["content"] = ""  # an answer of thoughts alone, sent back; templates cannot write null
    elif content is None and "role" in message:
        raise InvalidRequest(f"'{param}.content' is missing. Add the text of the message.", param=f"{param}.content")
    return plain


def _text(part: Any, param: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = part.get(kind) if isinstance(part, Mapping) and kind in ("text", "refusal") else None
    if isinstance(text, str):
        return text
    if kind in ("image_url", "input_audio", "file", "video_url", "audio_url"):
        message = f"'{param}' has the type '{kind}', but models of this server read text only. Send text."
        raise InvalidRequest(message, param=param)
    raise InvalidRequest(f'\'{param}\' must be like {{"type": "text", "text": "..."}}.', param=param)
