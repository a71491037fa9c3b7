"""Answers as every published chat template writes them, read apart again."""

import json
import time
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.chat.answer_format import AnswerFormat
from app.core.chat.call_format import JsonObject, NameThenJson
from app.core.chat.continuation import continuation
from app.core.chat.templates import ChatTemplates, TemplateRefused
from app.core.spec.answers import ParsedAnswer
from tests.chat_templates import BOS, EOS, SOURCES
from tests.core.chat.formats import DISTINCT, JSON_CALLS, WITH_CALLS
from tests.properties import examples

QUESTION = {"role": "user", "content": "How is the weather in Oban?"}
TYPES = {"town": "string", "days": "integer", "scale": "number", "sea": "boolean", "tags": "array", "more": "object"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Looks a place up.",
            "parameters": {
                "type": "object",
                "properties": {key: {"type": kind, "description": "A detail."} for key, kind in TYPES.items()},
            },
        },
    }
    for name in ("get_weather", "find-harbour")
]


def calls(*pairs: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"id": f"call0000{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for index, (name, arguments) in enumerate(pairs)
    ]


ARGUMENTS: dict[str, Any] = {
    "town": 'Oban, "An t-Òban" {GB}\nTwo',
    "days": 3,
    "scale": -1.5,
    "sea": True,
    "tags": ["a", 1, {"b": []}, None],
    "more": {"c": {"d": "e"}},
}
MESSAGES: dict[str, dict[str, Any]] = {
    "text": {"content": 'An {answer} with "quotes"\nand <b>tags</b>'},
    "thoughts": {"content": "Rain.", "reasoning_content": "Let me see: {x}\n\nWest coast."},
    "call": {"content": None, "tool_calls": calls(("get_weather", ARGUMENTS))},
    "call without arguments": {"content": None, "tool_calls": calls(("get_weather", {}))},
    "thoughts and call": {
        "content": None,
        "reasoning_content": "A town.",
        "tool_calls": calls(("get_weather", {"town": "Oban", "days": 2})),
    },
}
TWO_CALLS = {"content": None, "tool_calls": calls(("get_weather", ARGUMENTS), ("find-harbour", {"days": 2}))}
TEXT_AND_CALL = {"content": "I look.", "tool_calls": calls(("get_weather", {"town": "Oban"}))}
ONE_CALL = {"trl/gptoss", "trl/llama3_1", "trl/llama3_2", "axolotl/llama3_2_vision"}
"""Templates that refuse or drop a second call of a message."""
CALL_OR_TEXT = {"trl/deepseek_r1_distill", "trl/gptoss", "trl/llama3_1", "trl/llama3_2", "axolotl/llama3_2_vision"} | {
    *(
        "trl/muse_glimmer",
        "axolotl/command_a_rag",
        "axolotl/command_a_tool_use",
        "axolotl/mistral_v2v3",
        "axolotl/mistral_v3_tekken",
    )
}
"""Templates that drop the text of a message with calls, or its calls, or write the text as thoughts."""


@cache
def templates(name: str) -> ChatTemplates:
    return ChatTemplates({"default": SOURCES[name]}, {"bos_token": BOS, "eos_token": EOS})


@cache
def answer_format(name: str) -> AnswerFormat:
    return AnswerFormat.derive(templates(name))


def base(name: str) -> str:
    return name.removesuffix("_training")


def written(name: str, message: dict[str, Any]) -> str:
    """Return what the model should write for the message."""
    tools = TOOLS if message.get("tool_calls") else None
    prompt = templates(name).render([QUESTION], tools, for_answer=True)
    return continuation(templates(name), [QUESTION], {"role": "assistant", **message}, tools, prompt).text


def read(parsed: ParsedAnswer) -> list[tuple[str, Any]]:
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in parsed.tool_calls]


def sent(message: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())]


@pytest.mark.parametrize("name", SOURCES)
def test_every_template_reads_back(name: str) -> None:
    found = answer_format(name)
    for message in [
        *MESSAGES.values(),
        *([] if base(name) in ONE_CALL else [TWO_CALLS]),
        *([] if base(name) in CALL_OR_TEXT else [TEXT_AND_CALL]),
    ]:
        if "tool_calls" in message and not found.renders_tool_calls:
            continue
        text = written(name, message)
        parsed = found.parse(text, TOOLS)
        thoughts = message.get("reasoning_content", "")
        assert parsed.text.strip() == (message["content"] or "")
        assert parsed.reasoning == (thoughts if thoughts in text else "")
        assert read(parsed) == sent(message)


def test_lists_of_formats_are_complete() -> None:
    distinct = sorted({repr(answer_format(name)): name for name in reversed(SOURCES)}.values())
    with_calls = [name for name in distinct if answer_format(name).calls]
    syntaxes = {name: form.calls.syntax for name in with_calls if (form := answer_format(name)).calls}
    assert distinct == DISTINCT
    assert with_calls == WITH_CALLS
    assert [name for name in with_calls if isinstance(syntaxes[name], JsonObject | NameThenJson)] == [*JSON_CALLS]


LETTERS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="<>"), max_size=30)
MARKS = st.sampled_from(["{", "}", '"', "'", "\\", "\n", "<b>", "[1]", "},", "5", "null"])
TEXT = st.lists(LETTERS | MARKS, max_size=6).map("".join)
KEYS = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "town": TEXT,
    "days": st.integers(-(10**12), 10**12),
    "scale": st.floats(allow_nan=False, allow_infinity=False),
    "sea": st.booleans(),
    "tags": st.lists(VALUES, max_size=3),
    "more": st.dictionaries(KEYS, VALUES, max_size=3),
}
PAIRS = st.tuples(st.sampled_from(["get_weather", "find-harbour"]), st.fixed_dictionaries({}, optional=FIELDS))


@pytest.mark.parametrize("name", WITH_CALLS)
@settings(max_examples=examples(10), suppress_health_check=[HealthCheck.too_slow])
@given(thoughts=TEXT, pairs=st.lists(PAIRS, min_size=1, max_size=2))
def test_random_calls_read_back(name: str, thoughts: str, pairs: list[tuple[str, dict[str, Any]]]) -> None:
    pairs = pairs[:1] if base(name) in ONE_CALL else pairs
    message = {"content": None, "reasoning_content": thoughts.strip() or None, "tool_calls": calls(*pairs)}
    assert read(answer_format(name).parse(written(name, message), TOOLS)) == pairs


@pytest.mark.parametrize("name", DISTINCT)
@settings(max_examples=examples(10), suppress_health_check=[HealthCheck.too_slow])
@given(text=TEXT.filter(str.strip), thoughts=TEXT)
def test_random_text_reads_back(name: str, text: str, thoughts: str) -> None:
    answer = written(name, {"content": text, "reasoning_content": thoughts.strip() or None})
    parsed = answer_format(name).parse(answer, TOOLS)
    assert parsed.text.strip() == text.strip()
    assert parsed.tool_calls == ()


@pytest.mark.parametrize("name", WITH_CALLS)
def test_cut_answer_yields_no_broken_call(name: str) -> None:
    text = written(name, MESSAGES["thoughts and call"])
    for end in range(len(text)):
        assert read(answer_format(name).parse(text[:end], TOOLS)) in ([], sent(MESSAGES["thoughts and call"]))


@pytest.mark.parametrize("name", WITH_CALLS)
def test_malformed_call_stays_in_text(name: str) -> None:
    good = written(name, MESSAGES["call"])
    bad = good.replace("get_weather", "get weather(", 1).replace("town", "to<wn\"'=", 1).replace("days", "{[")
    parsed = answer_format(name).parse(answer_format(name).content_start + bad, TOOLS)
    assert parsed.tool_calls == ()
    assert "Oban" in parsed.text + parsed.reasoning


@pytest.mark.parametrize("name", WITH_CALLS)
def test_repeated_marks_take_linear_time(name: str) -> None:
    text = written(name, MESSAGES["call"])
    start = text[: text.index("Oban")]
    began = time.process_time()
    answer_format(name).parse(start * (200_000 // len(start)), TOOLS)
    answer_format(name).parse(start + " \n'\"{" * 40_000, TOOLS)
    assert time.process_time() - began < 2


def test_unfinished_thoughts_leave_no_answer() -> None:
    assert answer_format("trl/qwen3_6").parse("The town is") == ParsedAnswer("", "The town is")
    assert answer_format("trl/qwen3").parse("<think>\nThe town is") == ParsedAnswer("", "The town is")


def test_thoughts_without_opening_mark() -> None:
    text = "The west coast.</think>\n\nRain.<|im_end|>"
    assert answer_format("axolotl/phi_4").parse(text, opened="") == ParsedAnswer("Rain.", "The west coast.")
    # Behind a prompt that opens no thoughts, the model writes the mark itself. A stream could not take text back.
    assert answer_format("axolotl/phi_4").parse(text) == ParsedAnswer("The west coast.</think>\n\nRain.")


def test_think_tags_of_other_models_stay() -> None:
    text = "<think>A.</think>B"
    assert answer_format("axolotl/chatml").parse(text) == ParsedAnswer(text)


def test_declared_text_stays_text() -> None:
    name = "trl/qwen3_6"
    arguments = {"town": "5", "days": 5, "unknown": 5}
    text = written(name, {"content": None, "tool_calls": calls(("get_weather", arguments))})
    assert read(answer_format(name).parse(text, TOOLS)) == [("get_weather", arguments)]
    assert read(answer_format(name).parse(text)) == [("get_weather", arguments | {"town": 5})]


def test_json_answer_is_no_call() -> None:
    found = answer_format("trl/llama3_1")
    text = '{"name": "Oban", "parameters": {"town": true}}'
    assert found.parse(text, TOOLS) == ParsedAnswer(text)
    assert read(found.parse(text.replace("Oban", "get_weather"), TOOLS)) == [("get_weather", {"town": True})]


def test_call_may_have_other_whitespace() -> None:
    text = 'So: <tool_call>{"arguments":{"town":\n"Oban"}, "name":"get_weather"}</tool_call>'
    parsed = answer_format("trl/qwen2_5").parse(text)
    assert (parsed.text, read(parsed)) == ("So:", [("get_weather", {"town": "Oban"})])


@pytest.mark.parametrize("value", ["1e999", "NaN", "9" * 5000, "[" * 100_000, r'"\ud800"', '"\0"'])
def test_hostile_values_do_no_harm(value: str) -> None:
    for name, text in {
        "trl/qwen2_5": f'<tool_call>\n{{"name": "f", "arguments": {{"a": {value}}}}}\n</tool_call>',
        "trl/lfm2_v2": f"<|tool_call_start|>[f(a={value})]<|tool_call_end|>",
        "trl/qwen3_6": f"</think><tool_call><function=f><parameter=a>{value}</parameter></function></tool_call>",
    }.items():
        parsed = answer_format(name).parse(text)
        for call in parsed.tool_calls:
            json.loads(call["function"]["arguments"], parse_constant=pytest.fail)
            json.dumps(call, ensure_ascii=False).encode()


def test_what_templates_render() -> None:
    facts = {
        name: (answer_format(name).renders_tools, answer_format(name).renders_tool_calls)
        for name in ("axolotl/chatml", "axolotl/falcon_h1", "axolotl/deepseek_v3", "trl/qwen2_5")
    }
    assert list(facts.values()) == [(False, False), (True, False), (False, True), (True, True)]


def test_template_refusing_everything() -> None:
    refusing = ChatTemplates({"default": "{{ raise_exception('no') }}"}, {})
    assert AnswerFormat.derive(refusing).parse("Rain.") == ParsedAnswer("Rain.")
    with pytest.raises(TemplateRefused):
        refusing.render([QUESTION], None, for_answer=True)
