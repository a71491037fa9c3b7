"""Splits a text that holds a whole conversation, in the markup of ChatML, Llama or Alpaca, into messages."""

import re
from typing import Any, Final

_CHATML: Final = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>|\Z)\s*", re.DOTALL)
_LLAMA: Final = re.compile(
    r"(?:<s>)?\s*\[INST\]\s*(?:<<SYS>>\n?(.*?)\n?<</SYS>>\s*)?(.*?)\s*\[/INST\](.*?)(?:</s>|(?=\[INST\])|\Z)\s*",
    re.DOTALL,
)
_HEADING: Final = re.compile(
    r"(?:^###|###(?= *\w+:)) *(System|Human|User|Instruction|Input|Context|Assistant|Response|Output):?[ \t]*\n?",
    re.MULTILINE,
)
_HEADING_ROLES: Final = {
    **dict.fromkeys(("Human", "User", "Instruction"), "user"),
    **dict.fromkeys(("Input", "Context"), "input"),
    **dict.fromkeys(("Assistant", "Response", "Output"), "assistant"),
    "System": "system",
}


def messages_in(text: str) -> tuple[str, list[dict[str, Any]]] | None:
    """Return the name of the markup and the messages; None unless the markup covers the whole text."""
    for name, split in (("ChatML", _chatml), ("Llama's markup", _llama), ("Alpaca's markup", _headings)):
        messages = split(text.strip())
        if messages and any(message["role"] == "assistant" for message in messages):
            return name, messages
    return None


def _message(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content.strip()}


def _chatml(text: str) -> list[dict[str, Any]]:
    matches = list(_CHATML.finditer(text))
    if sum(len(match[0]) for match in matches) != len(text):
        return []
    return [_message(match[1], match[2]) for match in matches]


def _llama(text: str) -> list[dict[str, Any]]:
    messages = []
    covered = 0
    for match in _LLAMA.finditer(text):
        covered += len(match[0])
        system, user, answer = match.groups()
        messages += [_message("system", system)] if system else []
        messages += [_message("user", user), *([_message("assistant", answer)] if answer.strip() else [])]
    return messages if covered == len(text) else []


def _headings(text: str) -> list[dict[str, Any]]:
    """Alpaca's introduction, before the first heading, becomes the system message."""
    introduction, *parts = _HEADING.split(text)
    messages = [_message("system", introduction)] if introduction.strip() else []
    for heading, content in zip(parts[::2], parts[1::2], strict=True):
        role = _HEADING_ROLES[heading]
        if role != "input":
            messages.append(_message(role, content))
        elif messages and messages[-1]["role"] == "user":
            messages[-1]["content"] += f"\n\n{content.strip()}"
        else:
            return []
    return messages
