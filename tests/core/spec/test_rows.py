import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.spec.json_lines import DECODER, MAX_DEPTH, MAX_LINE_BYTES, Refused, load_object
from app.core.spec.rows import Preference, Row, RowError, parse_row
from tests.properties import examples

USER = {"role": "user", "content": "2+2?"}
ASSISTANT = {"role": "assistant", "content": "4"}
PARSED_CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}


def row(**fields: Any) -> Row:
    return parse_row(json.dumps(fields), 17)


def refusal(raw: bytes | str) -> RowError:
    with pytest.raises(RowError) as caught:
        parse_row(raw, 17)
    assert str(caught.value) == f"line 17: {caught.value.message}"
    return caught.value


def test_last_assistant_message_is_the_demonstration() -> None:
    parsed = row(messages=[{"role": "system", "content": "Be brief."}, USER, ASSISTANT, USER, ASSISTANT])
    assert parsed.expert == "4"
    assert parsed.prompt_messages == [{"role": "system", "content": "Be brief."}, USER, ASSISTANT, USER]


def test_short_form_equals_messages() -> None:
    short, long = row(prompt="2+2?", completion="4"), row(messages=[USER, ASSISTANT])
    assert (short.prompt_messages, short.expert) == (long.prompt_messages, long.expert)
    assert short.item["messages"] == [USER, ASSISTANT]
    assert short.item["completion"] == "4"


@pytest.mark.parametrize("fields", [{"messages": [USER]}, {"prompt": "2+2?"}, {"prompt": "2+2?", "completion": None}])
def test_prompt_only_row_has_no_demonstration(fields: dict[str, Any]) -> None:
    parsed = row(**fields)
    assert parsed.prompt_messages == [USER]
    assert parsed.expert is None
    assert parsed.warnings == ()


def test_extra_fields_are_grader_input() -> None:
    extra = {"reference_answer": {"value": 4}, "prompt": "kept"}
    parsed = row(messages=[USER], teacher_responses=["4"], tools=[], **extra)
    assert parsed.item == {"messages": [USER], **extra}


def test_teacher_responses_are_strings_or_objects() -> None:
    responses = ["4", {"content": "four", "model": "big"}, {"content": "IV"}]
    parsed = row(prompt="2+2?", teacher_responses=responses)
    assert [(t.content, t.model) for t in parsed.teacher] == [("4", None), ("four", "big"), ("IV", None)]


def test_openai_tool_conversation_is_valid() -> None:
    blocks = [{"type": "text", "text": "Use "}, {"type": "text", "text": "tools."}]
    parsed = row(
        messages=[
            {"role": "developer", "content": blocks},
            {**USER, "name": "ann"},
            {"role": "assistant", "content": None, "tool_calls": [CALL], "weight": 0, "refusal": None},
            {"role": "tool", "tool_call_id": "c1", "content": ""},
            {**ASSISTANT, "weight": 1},
        ],
        tools=[{"type": "function", "function": {"name": "add"}}],
        parallel_tool_calls=False,
    )
    assert parsed.prompt_messages == [
        {"role": "system", "content": "Use tools."},
        {**USER, "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [PARSED_CALL]},
        {"role": "tool", "content": "", "tool_call_id": "c1"},
    ]
    assert parsed.expert == "4"
    assert len(parsed.tools) == 1


def test_final_message_of_weight_0_is_no_demonstration() -> None:
    parsed = row(messages=[USER, {**ASSISTANT, "weight": 0}])
    assert (parsed.expert, parsed.trained, parsed.prompt_messages) == (None, (), [USER])
    assert "weight 0" in parsed.warnings[0].message


def test_every_weighted_assistant_message_is_trained() -> None:
    unweighted = {**ASSISTANT, "weight": 0}
    parsed = row(messages=[USER, ASSISTANT, USER, unweighted, USER, {**ASSISTANT, "weight": 1}])
    assert parsed.trained == (1, 5)
    assert row(messages=[USER, ASSISTANT, USER, unweighted]).trained == (1,)


def test_tool_call_is_a_demonstration() -> None:
    arguments = '{"a": 1, "b": [2.5, "\\u00e9"]}'
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": arguments}}
    parsed = row(messages=[USER, {"role": "assistant", "content": None, "tool_calls": [call, CALL]}])
    assert parsed.demonstration is not None
    assert [made["function"]["arguments"] for made in parsed.demonstration["tool_calls"]] == [
        {"a": 1, "b": [2.5, "é"]},
        {},
    ]
    assert (
        parsed.expert == '[{"name": "add", "arguments": {"a": 1, "b": [2.5, "é"]}}, {"name": "add", "arguments": {}}]'
    )


def test_legacy_function_call_is_a_tool_call() -> None:
    function = {"name": "tide", "parameters": {"type": "object"}}
    parsed = row(
        messages=[
            USER,
            {"role": "assistant", "content": None, "function_call": {"name": "tide", "arguments": '{"at": "Oban"}'}},
            {"role": "function", "name": "tide", "content": "06:12"},
            ASSISTANT,
        ],
        functions=[function],
    )
    call = {"id": "call_0", "type": "function", "function": {"name": "tide", "arguments": {"at": "Oban"}}}
    assert parsed.messages[1] == {"role": "assistant", "content": None, "tool_calls": [call]}
    assert parsed.messages[2] == {"role": "tool", "content": "06:12", "name": "tide", "tool_call_id": "call_0"}
    assert parsed.tools == ({"type": "function", "function": function},)
    assert parsed.trained == (1, 3)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_have_one_name(name: str) -> None:
    parsed = row(messages=[USER, {**ASSISTANT, name: "two and two"}])
    assert parsed.demonstration == {**ASSISTANT, "reasoning_content": "two and two"}
    assert parsed.expert == "4"


def test_dump_of_a_client_library_is_valid() -> None:
    unused: dict[str, Any] = {
        "refusal": None,
        "audio": None,
        "function_call": None,
        "tool_calls": None,
        "annotations": [],
    }
    assert row(messages=[USER, {**ASSISTANT, **unused}]).messages == [USER, ASSISTANT]


def test_empty_system_message_is_left_out() -> None:
    parsed = row(messages=[{"role": "system", "content": ""}, USER, ASSISTANT])
    assert parsed.messages == [USER, ASSISTANT]
    assert parsed.trained == (1,)
    assert [warning.param for warning in parsed.warnings] == ["messages[0]"]


def test_tools_may_be_json_text() -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    assert row(messages=[USER, ASSISTANT], tools=json.dumps(tools)).tools == tuple(tools)


def test_short_form_may_hold_messages() -> None:
    parsed = row(prompt=[{"role": "system", "content": "Be brief."}, USER], completion=[ASSISTANT])
    assert parsed.messages == [{"role": "system", "content": "Be brief."}, USER, ASSISTANT]
    assert parsed.expert == "4"


BETTER, WORSE = {"role": "assistant", "content": "Good day."}, {"role": "assistant", "content": "yo"}


@pytest.mark.parametrize(
    "fields",
    [
        {"input": {"messages": [USER]}, "preferred_output": [BETTER], "non_preferred_output": [WORSE]},
        {"prompt": "2+2?", "chosen": "Good day.", "rejected": "yo"},
        {"prompt": [USER], "chosen": [BETTER], "rejected": [WORSE]},
        {"chosen": [USER, BETTER], "rejected": [USER, WORSE]},
        {"prompt": "2+2?", "chosen": [USER, BETTER], "rejected": [USER, WORSE]},
    ],
)
def test_preference_rows_have_one_form(fields: dict[str, Any]) -> None:
    parsed = row(**fields)
    assert parsed.messages == parsed.prompt_messages == [USER]
    assert parsed.preference == Preference(BETTER, WORSE)
    assert (parsed.trained, parsed.expert) == ((), None)


def test_demonstration_keeps_every_byte() -> None:
    text = "  <think>\n\u2028é😀\u0000</think>\r\n4 "
    assert row(prompt=" q ", completion=text).expert == text


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("{}", "the row has neither an assistant message nor a prompt"),
        ('{"messages": null, "completion": "4"}', "neither an assistant message nor a prompt"),
        ('{"a": 1,}', "invalid JSON at column 8: a comma stands before the closing bracket"),
        ('{"prompt": "a"} {"prompt": "b"}', "invalid JSON at column 17: more text follows"),
        ("", "the line is empty"),
        ('[{"prompt": "a"}]', "the line is a JSON array; each line must be one object"),
        ("3", "the line is a JSON number"),
        ("null", "the line is a JSON null"),
        ('{"prompt": "a", "x": {"k": 1, "k": 2}}', "the key 'k' appears twice"),
        ('{"prompt": "a", "x": NaN}', "NaN is not a JSON number"),
        ('{"prompt": "a", "x": [-Infinity]}', "-Infinity is not a JSON number"),
        ('{"prompt": "a", "x": 1e999}', "'1e999' is too large"),
        ('{"prompt": "a", "x": ' + "9" * 5000 + "}", "too many digits"),
        ('{"prompt": "a\\ud800"}', "`prompt` contains half a surrogate pair"),
        ('{"prompt": "a", "\\uDFFF": 1}', "contains half a surrogate pair"),
        ('{"prompt": "a\ud800"}', "lone surrogate"),
        (b'{"prompt": "a\xed\xa0\x80"}', "byte 14 is not UTF-8"),
        ('{"prompt": "a"}'.encode("utf-16"), "byte 1 is not UTF-8"),
        ('{"prompt": " "}', "`prompt` is empty"),
        ('{"prompt": "a", "completion": ""}', "`completion` is empty"),
        ('{"prompt": ["a"]}', "`prompt` must be a string or a list of messages"),
        ('{"messages": []}', "`messages` must be a non-empty list"),
        ('{"messages": "a"}', "`messages` must be a non-empty list"),
        ('{"messages": [3]}', "`messages[0]` must be an object"),
        ('{"messages": [{"role": "assistant", "content": "4"}]}', "add the user message before it"),
        ('{"messages": [{"role": "system", "content": ""}]}', "neither an assistant nor a user message"),
        ('{"messages": [{"role": "system", "content": "4"}]}', "neither an assistant nor a user message"),
        ('{"messages": [{"role": "bot", "content": "4"}]}', "`messages[0].role` must be one of system"),
        ('{"messages": [{"role": [], "content": "4"}]}', "`messages[0].role` must be one of system"),
        ('{"messages": [{"role": "user", "content": null}]}', "`messages[0].content` is empty"),
        ('{"messages": [{"role": "user", "content": []}]}', "`messages[0].content` is empty"),
        ('{"messages": [{"role": "user", "content": 3}]}', "`messages[0].content` must be a string"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "only text can be trained"),
        ('{"messages": [{"role": "user", "content": "a", "wieght": 0}]}', "an unknown field 'wieght'"),
        ('{"messages": [{"role": "user", "content": "a", "weight": 1}]}', "on assistant messages only"),
        ('{"messages": [{"role": "assistant", "content": "a", "weight": true}]}', "must be 0 or 1"),
        ('{"messages": [{"role": "assistant", "tool_calls": []}]}', "`messages[0].content` is empty"),
        ('{"messages": [{"role": "assistant", "tool_calls": [{}]}]}', "`messages[0].tool_calls[0]` must be like"),
        ('{"messages": [{"role": "user", "content": "a", "tool_calls": [{}]}]}', "belongs on assistant messages"),
        (
            '{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}',
            "`messages[0].tool_calls[0].function.arguments` must be a JSON object: invalid JSON at column 2",
        ),
        (
            '{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "3"}}]}]}',
            "arguments` must be a JSON object of argument names",
        ),
        ('{"messages": [{"role": "user", "content": "a", "reasoning": "b"}]}', "belongs on assistant messages"),
        ('{"messages": [{"role": "user", "content": "a"}], "tools": "{"}', "`tools` must be a JSON list of tool"),
        ('{"prompt": "a", "chosen": "b", "rejected": "b"}', "are the same answer"),
        ('{"chosen": "b", "rejected": "c"}', "the row has no prompt"),
        ('{"preferred_output": [], "non_preferred_output": []}', "`input.messages` must be a list"),
        ('{"prompt": "a", "teacher_responses": "b"}', "`teacher_responses` must be a list"),
        ('{"prompt": "a", "teacher_responses": [""]}', "`teacher_responses[0]` is empty"),
        ('{"prompt": "a", "teacher_responses": [{"text": "b"}]}', "`teacher_responses[0]` must be"),
        (
            '{"prompt": "a", "teacher_responses": [{"content": "b", "model": 3}]}',
            "[0].model` must be a string",
        ),
        ('{"prompt": "a", "tools": {"a": 1}}', "`tools` must be a list of tool objects"),
    ],
)
def test_row_error_names_the_problem(raw: bytes | str, message: str) -> None:
    assert message in refusal(raw).message


def test_row_error_names_the_field() -> None:
    assert refusal('{"messages": [{"role": "user", "content": ""}]}').param == "messages[0].content"
    assert refusal("{").param is None


def nested(depth: int) -> str:
    return '{"prompt": "a", "x": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


def test_depth_limit() -> None:
    assert parse_row(nested(MAX_DEPTH), 1).expert is None
    for depth in (MAX_DEPTH + 1, 400_000):
        assert f"nested more than {MAX_DEPTH} deep" in refusal(nested(depth)).message


def test_brackets_in_text_are_not_depth() -> None:
    assert parse_row(json.dumps({"prompt": "a", "x": [{}] * 500, "y": "[{" * 100}), 1).expert is None


def test_line_limit_counts_bytes() -> None:
    fits = '{"prompt": "' + "é" * ((MAX_LINE_BYTES - 14) // 2) + '"}'
    assert len(fits.encode()) == MAX_LINE_BYTES
    assert parse_row(fits, 1).expert is None
    assert "more than 1,000,000 bytes" in refusal(fits + " ").message


def test_row_error_shortens_long_input() -> None:
    name = "k" * 100_000
    assert len(refusal(f'{{"{name}": 1, "{name}": 2}}').message) < 200


def test_surrogate_pair_is_one_character() -> None:
    assert parse_row('{"prompt": "\\ud83d\\ude00"}', 1).prompt_messages[0]["content"] == "😀"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "weight", "tool_calls", "type", "text", "model"]) | st.text(max_size=3),
            inner | st.sampled_from(["user", "assistant", "text"]),
            max_size=5,
        )
    ),
    max_leaves=12,
)
row_values = st.dictionaries(
    st.sampled_from(
        ["messages", "prompt", "completion", "teacher_responses", "tools", "chosen", "rejected", "input", "x"]
    ),
    json_values,
)


@given(
    st.binary()
    | st.text()
    | row_values.map(json.dumps)
    | json_values.map(json.dumps)
    | st.fixed_dictionaries({"prompt": st.text(min_size=1), "x": json_values}).map(json.dumps)
)
def test_any_line_parses_or_raises_row_error(raw: bytes | str) -> None:
    try:
        parsed = parse_row(raw, 3)
    except RowError:
        return
    assert parsed.prompt_messages
    json.dumps(parsed._asdict(), allow_nan=False).encode()


numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
texts = st.text(max_size=4).map(json.dumps) | st.sampled_from(
    [
        r'"\ud800"',
        r'"\ud83d\ude00"',
        r'"\udc00\ud800"',
        '"\x01"',
        r'"\u0000"',
        r'"\x"',
        '"\x7f"',
        '"\ufeff"',
        '"a',
        "'a'",
    ]
)
written_values = st.recursive(
    numbers
    | texts
    | st.sampled_from(["true", "null", "NaN", "Infinity", "-Infinity", "01", "1.", "+1", ".5", "9" * 5000]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda values: f"[{','.join(values)}]")
        | st.lists(st.tuples(texts, inner), max_size=3).map(
            lambda pairs: f"{{{','.join(f'{name}:{value}' for name, value in pairs)}}}"
        )
    ),
    max_leaves=8,
)


@settings(max_examples=examples(200))
@given(
    written_values, st.sampled_from(["", " ", ",", "}", "\ufeff"]), st.sampled_from(["", " \t\n\r", "x", "{}", "\x0c"])
)
def test_fast_parser_is_as_strict_as_the_decoder(value: str, before: str, after: str) -> None:
    line = f'{before}{{"value":{value}}}{after}'
    try:
        expected = DECODER.decode(line)
        json.dumps(expected, ensure_ascii=False).encode()
    except (ValueError, Refused):
        with pytest.raises(Refused):
            load_object(line)
    else:
        assert repr(load_object(line)) == repr(expected)


messages = st.dictionaries(
    st.sampled_from(["role", "content", "weight", "name"]),
    st.sampled_from(["user", "assistant", "system", "developer", "tool", "", " ", "text", None, 1, ["user"]]),
    max_size=3,
)


@given(st.lists(messages, min_size=1, max_size=3))
def test_fast_path_equals_full_path(written: list[dict[str, Any]]) -> None:
    """An unused null field takes a message off the fast path without changing the result."""
    outcomes: list[tuple[Any, ...]] = []
    for given_messages in (written, [{**message, "refusal": None} for message in written]):
        try:
            parsed = parse_row(json.dumps({"messages": given_messages}), 1)
            outcomes.append((parsed.messages, parsed.trained, parsed.warnings))
        except RowError as error:
            outcomes.append((error.param, error.message))
    assert outcomes[0] == outcomes[1]
