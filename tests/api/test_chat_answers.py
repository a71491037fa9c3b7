"""Answers to chats, written whole and in chunks from the same text of an engine."""

from pathlib import Path
from typing import Any, Final

import pytest
from openai.lib.streaming._deltas import accumulate_delta

from app.api.chat_answers import ChatAnswer, ChatForm
from app.core.chat.tokenizer import ChatTokenizer
from app.core.inference.chat_messages import read_messages
from app.core.inference.chat_request import ChatQuestion, prepare
from app.core.inference.engine_answers import ChoiceDelta, EngineChunk, EngineCompletion, Usage
from app.core.inference.models import ServedModel
from app.core.inference.structured import CallRules
from app.core.models.registry import BaseModel
from tests import chat_templates
from tests.core.chat.test_answer_format import TOOLS

SERVED: Final = ServedModel("tiny", BaseModel("tiny", Path("tiny"), None))
CALL: Final = '<tool_call>\n{"name": "get_weather", "arguments": {"days": 2}}\n</tool_call>'
Json = dict[str, Any]


def answer(tokenizer: ChatTokenizer, *, is_legacy: bool = False) -> ChatAnswer:
    question = ChatQuestion(read_messages([{"role": "user", "content": "Rain?"}]), calls=CallRules(allowed=(*TOOLS,)))
    return ChatAnswer(SERVED, prepare(tokenizer, None, question), ChatForm(is_legacy=is_legacy))


def deltas(written: ChatAnswer, text: str) -> list[Any]:
    """Return the deltas of a stream in which the text arrives character by character."""
    last = len(text) - 1
    pieces = [ChoiceDelta(0, piece, (), None, "stop" if at == last else None) for at, piece in enumerate(text)]
    pieces = pieces or [ChoiceDelta(0, "", (), None, "stop")]
    return [chunk["choices"][0]["delta"] for piece in pieces for chunk in written.chunks(EngineChunk((piece,), None))]


def without_ids(message: Json) -> Json:
    calls = [{**call, "id": "", "index": 0} for call in message.get("tool_calls") or ()]
    return {**message, "annotations": [], **({"tool_calls": calls} if calls else {})}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("trl/qwen2_5", "Rain."),
        ("trl/qwen2_5", ""),
        ("trl/qwen2_5", CALL),
        ("trl/qwen2_5", f"I ask.\n{CALL}"),
        ("trl/qwen3", f"<think>\nHm.\n</think>\n\n{CALL}"),
        ("trl/qwen3", "<think>\nHm.\n</think>\n\nRain."),
        ("trl/qwen3", "<think>\nHm."),
    ],
)
def test_stream_adds_up_to_the_whole_message(template: str, text: str) -> None:
    tokenizer = chat_templates.tokenizer(template)
    completion = EngineCompletion((ChoiceDelta(0, text, (), None, "stop"),), Usage(1, 0))
    whole = answer(tokenizer).whole(completion)["choices"][0]["message"]
    streamed: Any = {}
    for delta in deltas(answer(tokenizer), text):
        accumulate_delta(streamed, delta)
    assert without_ids(streamed) == without_ids(whole)


def test_text_begins_with_empty_content() -> None:
    first, *_ = deltas(answer(chat_templates.tokenizer("trl/qwen2_5")), "Rain.")
    assert first == {"role": "assistant", "content": "", "refusal": None}


@pytest.mark.parametrize(("is_legacy", "field"), [(False, "tool_calls"), (True, "function_call")])
def test_call_begins_without_content(is_legacy: bool, field: str) -> None:
    first, last = deltas(answer(chat_templates.tokenizer("trl/qwen2_5"), is_legacy=is_legacy), CALL)
    assert first.pop(field)
    assert first == {"role": "assistant", "content": None, "refusal": None}
    assert last == {}
