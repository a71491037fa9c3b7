"""Answers that arrive in pieces, read as the whole text is read."""

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.chat.answer_stream import AnswerDelta, AnswerStream
from app.core.chat.call_format import Call, NamedArguments
from app.core.spec.answers import ParsedAnswer
from tests.core.chat.formats import DISTINCT, WITH_CALLS
from tests.core.chat.test_answer_format import (
    CALL_OR_TEXT,
    MESSAGES,
    ONE_CALL,
    PAIRS,
    TEXT,
    TOOLS,
    answer_format,
    base,
    calls,
    written,
)
from tests.properties import examples


def joined(deltas: list[AnswerDelta]) -> ParsedAnswer:
    found: list[Call] = [call for delta in deltas for call in delta.calls]
    return ParsedAnswer(
        "".join(delta.content for delta in deltas),
        "".join(delta.reasoning for delta in deltas),
        tuple(call.to_wire(index) for index, call in enumerate(found)),
    )


def read_in_pieces(name: str, text: str, cuts: list[int], tools: list[dict[str, Any]] | None = TOOLS) -> ParsedAnswer:
    stream = answer_format(name).stream(tools)
    at = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    deltas = [stream.feed(text[start:end]) for start, end in pairwise(at)]
    return joined([*deltas, stream.finish()])


def marks(name: str) -> list[str]:
    """Return everything that means something in the format, whole and as its first half."""
    form = answer_format(name)
    found = [form.content_start, form.content_end, *(form.thoughts or ())]
    if form.calls:
        found += [form.calls.opening, form.calls.head, form.calls.tail, form.calls.separator, form.calls.closing]
        if isinstance(form.calls.syntax, NamedArguments):
            syntax = form.calls.syntax
            found += [syntax.between, syntax.before_key + "town" + syntax.after_key, syntax.after_value, syntax.quote]
    found = [mark.replace("\0", "get_weather") for mark in found if mark]
    return [*found, *(mark[: len(mark) // 2] for mark in found)]


@st.composite
def answers(draw: st.DrawFn, name: str) -> str:
    """An answer as the template writes it, and pieces of it in an order that no template writes."""
    form, pairs = answer_format(name), st.lists(PAIRS, min_size=1, max_size=1 if base(name) in ONE_CALL else 2)
    thoughts, text = draw(TEXT).strip() or None, draw(TEXT)
    message: dict[str, Any] = {"content": text or "-", "reasoning_content": thoughts}
    whole = [written(name, message)]
    if form.renders_tool_calls and draw(st.booleans()):
        content = text.strip() or None if base(name) not in CALL_OR_TEXT else None
        whole = [written(name, {"content": content, "reasoning_content": thoughts, "tool_calls": calls(*draw(pairs))})]
    noise = st.sampled_from([*marks(name), " ", "\n", '{"name": "get_weather"', "}", "get_weather", "<"]) | TEXT
    before, after = draw(st.lists(noise, max_size=3)), draw(st.lists(noise | st.just(whole[0]), max_size=4))
    return "".join([*before, *whole, *after])


CUTS = st.lists(st.integers(0, 10**6), max_size=12)
slow = settings(max_examples=examples(15), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.mark.parametrize("name", DISTINCT)
@slow
@given(data=st.data())
def test_cuts_change_nothing(name: str, data: st.DataObject) -> None:
    text, cuts = data.draw(answers(name)), data.draw(CUTS)
    tools = data.draw(st.sampled_from([TOOLS, None]))
    assert read_in_pieces(name, text, cuts, tools) == answer_format(name).parse(text, tools)


@pytest.mark.parametrize("name", DISTINCT)
def test_single_characters_change_nothing(name: str) -> None:
    for message in MESSAGES.values():
        if "tool_calls" in message and not answer_format(name).renders_tool_calls:
            continue
        text = written(name, message)
        assert read_in_pieces(name, text, list(range(len(text)))) == answer_format(name).parse(text, TOOLS)


@pytest.mark.parametrize("name", DISTINCT)
def test_plain_text_is_not_held_back(name: str) -> None:
    stream = AnswerStream(answer_format(name), TOOLS)
    opening = "" if answer_format(name).opened.strip() in ("", *marks(name)) else None
    end = (answer_format(name).thoughts or ("", ""))[1]
    unfinished = answer_format(name).opened and end not in answer_format(name).opened
    stream.feed(end if unfinished else opening or "")
    sent = ""
    for word in ["Rain", " and", " some", " wind,", " 5", "\nknots"]:
        sent += stream.feed(word).content
    assert sent == "Rain and some wind, 5\nknots"


@pytest.mark.parametrize("name", WITH_CALLS)
def test_call_is_reported_when_complete(name: str) -> None:
    form = answer_format(name)
    if form.calls is None or not form.calls.is_marked:
        pytest.skip("only the end of the answer shows that it is a call")
    text = written(name, MESSAGES["call"])
    complete = form.calls.tail.rstrip()
    stream = form.stream(TOOLS)
    at = text.rindex(complete) + len(complete) if complete else text.rindex("}") + 1
    assert [call.name for call in stream.feed(text[:at]).calls] == ["get_weather"]


@pytest.mark.parametrize("name", WITH_CALLS)
def test_cut_call_is_left_out(name: str) -> None:
    """Wherever the tokens run out, neither marks nor parts of a call are shown."""
    content = None if base(name) in CALL_OR_TEXT else "Rain."
    pairs: list[tuple[str, dict[str, Any]]] = [
        ("get_weather", {"town": "Oban", "days": 2}),
        ("find-harbour", {"days": 2}),
    ]
    text = written(name, {"content": content, "tool_calls": calls(*pairs[: 1 if base(name) in ONE_CALL else 2])})
    last = max(text.rfind(part) for part in ("2", "harbour"))
    start = text.index("Rain.") + len("Rain.") if content else text.index("get_weather")
    for end in range(start, last):
        cut = answer_format(name).stream(TOOLS).finish(text[:end], is_cut=True)
        rest = cut.content.strip().removeprefix(content or "").strip()
        assert re.fullmatch(r"\w*|[^\w\s]*", rest), text[:end]  # one that is no mark yet
        assert [call.name for call in cut.calls] in ([], ["get_weather"]), text[:end]
        stream = answer_format(name).stream(TOOLS)
        deltas = [stream.feed(character) for character in text[:end]]
        assert joined([*deltas, stream.finish(is_cut=True)]) == joined([cut])


@pytest.mark.parametrize("text", ["If a <", "Go to", "See [", 'Write <tool_call> and "', "Rain. \n", "{2, 3"])
def test_cut_text_is_kept(text: str) -> None:
    for name in ("trl/qwen2_5", "trl/gptoss", "axolotl/mistral_v3_tekken", "trl/llama3_1"):
        assert answer_format(name).stream(TOOLS).finish(text, is_cut=True).content == text


def test_cut_object_is_kept_unless_it_calls() -> None:
    """Llama writes calls without a mark."""
    for text, is_kept in (
        ('{"name": "Oban", "par', True),
        ('{"town": "O', True),
        ('{"name": "get_weather", "par', False),
    ):
        stream = answer_format("trl/llama3_1").stream(TOOLS)
        assert bool(stream.finish(text, is_cut=True).content) == is_kept
        assert answer_format("trl/llama3_1").stream(TOOLS).finish(text).content == text


def test_call_in_the_prose_does_not_stop_the_stream() -> None:
    stream = answer_format("trl/qwen2_5").stream(TOOLS)
    assert stream.feed("Write <tool_call> and").content == "Write <tool_call> and"


def test_json_answer_streams_after_its_first_object() -> None:
    stream = answer_format("trl/llama3_1").stream(TOOLS)
    assert stream.feed('{"name": "Oban"').content == ""
    assert stream.feed("} is").content == '{"name": "Oban"} is'


def test_text_ends_at_the_end_mark() -> None:
    parsed = read_in_pieces("trl/qwen2_5", "Rain.\n<|im_end|>More", [3, 8, 12])
    assert parsed == ParsedAnswer("Rain.\n")


def test_long_call_takes_linear_time() -> None:
    stream = answer_format("trl/qwen3_6").stream(TOOLS)
    stream.feed("</think><tool_call>\n<function=get_weather>\n<parameter=town>\n")
    for _ in range(4000):
        stream.feed("<b>x</b>")
    end = stream.feed("\n</parameter>\n</function>\n</tool_call>")
    assert [len(re.findall("<b>", call.arguments)) for call in end.calls] == [4000]
