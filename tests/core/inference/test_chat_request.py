"""Chats become requests to an engine."""

import re
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from app.core.chat.tokenizer import ChatTokenizer
from app.core.errors import InvalidRequest
from app.core.inference.chat_messages import read_messages
from app.core.inference.chat_request import ChatQuestion, prepare
from app.core.inference.context import check_beginning
from app.core.inference.sampling import Sampling
from app.core.inference.structured import CallMode, CallRules
from tests import chat_templates
from tests.core.chat.test_answer_format import MESSAGES, TOOLS, written

CHATML = "axolotl/chatml"
QWEN = "trl/qwen3"
USER = {"role": "user", "content": "How deep is it?"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"days": 2}'}}


def refused(messages: list[Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as found:
        read_messages(messages)
    return found.value


def question(*messages: dict[str, Any], **options: Any) -> ChatQuestion:
    return ChatQuestion(read_messages(messages or [USER]), **options)


def test_messages_are_read_as_rows() -> None:
    sent = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": "", "name": "ada"},
        # As the SDK sends its own answer back.
        {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "annotations": [], "audio": None},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "Rain"}]},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "assistant", "content": None, "reasoning_content": "Rain or"},
    ]
    parsed = {"name": "get_weather", "arguments": {"days": 2}}
    assert read_messages(sent) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "", "name": "ada"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [CALL | {"function": parsed}],
        },
        {"role": "tool", "content": "Rain", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "No."},
        {"role": "assistant", "content": "", "reasoning_content": "Rain or"},
    ]


@pytest.mark.parametrize(
    ("message", "param", "words"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages.1.content.0", "image_url"),
        ({"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}, "messages.1.content.1", "must be like"),
        ({"role": "user", "content": 5}, "messages.1.content", "must be a string"),
        ({"role": "user"}, "messages.1.content", "is missing"),
        ({"role": "tool", "content": None}, "messages.1.content", "is missing"),
        ({"role": "assistant", "audio": {"id": "audio_1"}}, "messages.1.audio", "text only"),
        ({"role": "wizard", "content": "a"}, "messages.1.role", "`messages.1.role` must be one of"),
        ({"role": "user", "content": "a", "mood": "b"}, "messages.1", "unknown field"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "messages.1.tool_calls.0", "must be like"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            "messages.1.tool_calls.0.function.arguments",
            "JSON object",
        ),
        ({"role": "tool", "content": "4"}, "messages.1.tool_call_id", "is missing"),
        ({"role": "tool", "content": "4", "tool_call_id": ""}, "messages.1.tool_call_id", "is missing"),
        ({"role": "tool", "content": "4", "tool_call_id": 4}, "messages.1.tool_call_id", "must be a string"),
        ({"role": "tool", "content": "4", "tool_call_id": "call_9"}, "messages.1.tool_call_id", "'call_9'"),
        ("hello", "messages.1", "must be an object"),
    ],
)
def test_bad_message_is_refused(message: Any, param: str, words: str) -> None:
    error = refused([USER, message])
    assert error.param == param
    assert words in error.message


def test_result_must_follow_its_call() -> None:
    call, result = (
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "content": "4", "tool_call_id": "call_1"},
    )
    assert [message["role"] for message in read_messages([USER, call, result, USER])][2] == "tool"
    assert refused([USER, result, call]).param == "messages.1.tool_call_id"
    assert refused([USER, {"role": "system", "content": ""}, call, result | {"tool_call_id": "call_2"}]).param == (
        "messages.3.tool_call_id"
    )
    older = [
        {"role": "assistant", "function_call": CALL["function"]},
        {"role": "function", "name": "f", "content": "4"},
    ]
    assert [message["role"] for message in read_messages([USER, *older])] == ["user", "assistant", "tool"]


def test_empty_system_messages_alone_are_refused() -> None:
    assert refused([{"role": "system", "content": ""}]).param == "messages"


def test_request_has_the_prompt_of_training() -> None:
    tokenizer = chat_templates.tokenizer(QWEN)
    prepared = prepare(tokenizer, 4096, question(sampling=Sampling(max_tokens=7, stop=("x",), seed=3)))
    assert tuple(prepared.body["prompt"]) == tokenizer.prompt_ids([USER])
    assert set(prepared.body["stop_token_ids"]) == tokenizer.end_ids
    assert (prepared.body["max_tokens"], prepared.body["stop"], prepared.body["seed"]) == (7, ["x"], 3)


def test_tokens_default_to_what_is_left() -> None:
    prepared = prepare(chat_templates.tokenizer(CHATML), 100, question())
    assert prepared.body["max_tokens"] == 100 - prepared.prompt_tokens


def test_long_text_is_refused_by_its_beginning() -> None:
    tokenizer = chat_templates.tokenizer(CHATML)
    fitting = prepare(tokenizer, None, question()).prompt_tokens + 1
    long = "2 + 2 = 4, " * 100_000
    with pytest.raises(InvalidRequest) as found:
        prepare(tokenizer, fitting, question({"role": "user", "content": long}))
    said = re.search(rf"length is {fitting} tokens.* resulted in at least (\d+) tokens", found.value.message)
    assert said is not None
    assert fitting <= int(said[1]) < 16 * fitting
    for limit in (fitting, None):
        assert prepare(tokenizer, limit, question()).prompt_tokens == fitting - 1
    whole = question({"role": "user", "content": long[:1_000]})
    assert prepare(tokenizer, 2_000, whole).prompt_tokens > 100


def test_cut_word_does_not_count() -> None:
    """A text of long words fits, although the part of the word at the cut has more tokens than all other words."""
    word, letters = "antidisestablishmentarianisms", sorted({*"antidisestablishmentarianisms"})
    vocabulary = {"[UNK]": 0, word: 1} | {each: 2 + i for i, each in enumerate(letters)}
    vocabulary |= {f"##{each}": 100 + i for i, each in enumerate(letters)}
    backend = Tokenizer(models.WordPiece(vocabulary))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["</s>"])
    template = "{% for message in messages %}{{ message.role + ' ' + message.content }}</s>{% endfor %}"
    template += "{% if add_generation_prompt %}assistant {% endif %}"
    tokenizer = ChatTokenizer(backend, {"default": template}, {"eos_token": "</s>"})
    for count in range(8, 40):
        text = f"{word} " * count
        assert tokenizer.size(text) == count
        check_beginning(tokenizer, count + 1, "prompt", text)
    with pytest.raises(InvalidRequest, match=r"length is 8 tokens.* at least \d+ tokens"):
        check_beginning(tokenizer, 8, "prompt", f"{word} " * 4 + "x " * 400)


def test_context_errors_have_both_numbers() -> None:
    tokenizer = chat_templates.tokenizer(CHATML)
    tokens = prepare(tokenizer, None, question()).prompt_tokens
    for limit, max_tokens, words in (
        (
            tokens,
            None,
            f"maximum context length is {tokens} tokens. However, your messages resulted in {tokens} tokens",
        ),
        (tokens + 4, 5, f"you requested {tokens + 5} tokens ({tokens} in the messages, 5 in the completion)"),
    ):
        with pytest.raises(InvalidRequest) as found:
            prepare(tokenizer, limit, question(sampling=Sampling(max_tokens=max_tokens)))
        assert (found.value.code, found.value.param) == ("context_length_exceeded", "messages")
        assert words in found.value.message


def test_refusal_of_the_template_is_quoted() -> None:
    with pytest.raises(InvalidRequest) as found:
        prepare(chat_templates.tokenizer("trl/gemma"), None, question({"role": "assistant", "content": "Hi."}))
    assert (found.value.code, found.value.param) == ("template_refused", "messages")
    assert "roles must alternate" in found.value.message


def test_unseen_tools_and_calls_are_refused() -> None:
    tokenizer = chat_templates.tokenizer(CHATML)
    with pytest.raises(InvalidRequest) as tools:
        prepare(tokenizer, None, question(calls=CallRules(allowed=tuple(TOOLS))))
    with pytest.raises(InvalidRequest) as calls:
        prepare(tokenizer, None, question(USER, {"role": "assistant", "tool_calls": [CALL]}))
    assert (tools.value.param, calls.value.param) == ("tools", "messages.1.tool_calls")


def test_forbidden_tools_are_not_shown() -> None:
    tokenizer = chat_templates.tokenizer(QWEN)
    prepared = prepare(tokenizer, None, question(calls=CallRules(CallMode.none, tuple(TOOLS))))
    assert tuple(prepared.body["prompt"]) == tokenizer.prompt_ids([USER])
    text = written(QWEN, MESSAGES["call"])
    assert prepared.reader().finish(text).calls == ()


def test_single_call_ends_the_answer() -> None:
    calls = CallRules(allowed=tuple(TOOLS), is_parallel=False)
    reader = prepare(chat_templates.tokenizer(QWEN), None, question(calls=calls)).reader()
    text = written(QWEN, MESSAGES["call"])
    read = reader.finish(f"{text}\n{text} and more")
    assert ([call.name for call in read.calls], read.content) == (["get_weather"], "")
