"""Renderings of every published chat template, compared with transformers."""

from typing import Any

import pytest
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from app.core.chat.templates import ChatTemplates, TemplateRefused
from tests.chat_templates import BOS, EOS, SOURCES, as_read

QUESTION = {"role": "user", "content": "Which harbours are ice-free? <|im_end|>"}
ANSWER = {"role": "assistant", "content": "All of {them}, “always”."}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find_harbour",
            "description": "Finds a harbour.",
            "parameters": {"type": "object", "properties": {"town": {"type": "string", "description": "Its town."}}},
        },
    }
]
CHATS: dict[str, list[dict[str, Any]]] = {
    "question": [QUESTION],
    "system": [{"role": "system", "content": "Be brief."}, QUESTION],
    "turns": [QUESTION, ANSWER, QUESTION],
    "answered": [QUESTION, ANSWER],
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
def test_same_text_as_transformers(name: str, tools: list[dict[str, Any]] | None) -> None:
    templates = ChatTemplates({"default": SOURCES[name]}, {"bos_token": BOS, "eos_token": EOS})
    for messages in CHATS.values():
        for for_answer in (True, False):
            want = theirs(SOURCES[name], as_read(name, messages), tools, for_answer)
            assert ours(templates, messages, tools, for_answer) == want


def ours(templates: ChatTemplates, messages: list[dict[str, Any]], tools: Any, for_answer: bool) -> str | None:
    try:
        return templates.render(messages, tools, for_answer=for_answer)
    except TemplateRefused:
        return None


def theirs(source: str, messages: list[dict[str, Any]], tools: Any, for_answer: bool) -> str | None:
    """Return what transformers renders, or None where it refuses the chat."""
    special: dict[str, Any] = {"bos_token": BOS, "eos_token": EOS}
    try:
        rendered: Any = render_jinja_template(
            [messages], tools=tools, chat_template=source, add_generation_prompt=for_answer, **special
        )
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError):
        return None
    texts, _ = rendered
    return str(texts[0])
