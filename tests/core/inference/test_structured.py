"""Grammars of answers, checked by the library that enforces them."""

import json
from functools import cache
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from app.core.errors import InvalidRequest
from app.core.inference.structured import CallMode, CallRules, structured_outputs, uncompiled_schema
from tests import chat_templates
from tests.core.chat.formats import DISTINCT, JSON_CALLS
from tests.core.chat.test_answer_format import MESSAGES, ONE_CALL, TOOLS, TWO_CALLS, base, calls, written

SCHEMA = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
ALL = tuple(TOOLS)


@cache
def matching(name: str) -> LLTokenizer:
    tokenizer = chat_templates.tokenizer(name)
    return LLTokenizer(tokenizer.backend.to_str(), eos_token=tokenizer.end_id)


def accepts(name: str, grammar: dict[str, Any] | None, text: str) -> bool:
    """Return whether a model may write the text behind its prompt and end there."""
    assert grammar is not None
    compiled = LLMatcher.grammar_from_lark(grammar["grammar"])
    assert not LLMatcher.validate_grammar(compiled)
    matcher = LLMatcher(matching(name), compiled)
    tokenizer = chat_templates.tokenizer(name)
    ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
    ended = next((at for at, token in enumerate(ids) if token in tokenizer.end_ids), len(ids))
    return matcher.validate_tokens(ids[:ended]) == ended and (
        bool(matcher.consume_tokens(ids[:ended])) and matcher.is_accepting()
    )


def answer(name: str, message: dict[str, Any]) -> str:
    """Return what the model writes for the message; Command A numbers its calls, which no grammar requires."""
    return written(name, message).replace('"tool_call_id": "0", ', "").replace('"tool_call_id": "1", ', "").strip()


def grammar_of(name: str, mode: CallMode, tools: tuple[dict[str, Any], ...] = ALL, **options: Any) -> Any:
    schema = options.pop("schema", None)
    return structured_outputs(chat_templates.tokenizer(name), schema, CallRules(mode, tools, **options))


@pytest.mark.parametrize("name", JSON_CALLS)
def test_required_call_accepts_what_templates_write(name: str) -> None:
    grammar = grammar_of(name, CallMode.required)
    assert accepts(name, grammar, answer(name, MESSAGES["call"]))
    if base(name) not in ONE_CALL:
        assert accepts(name, grammar, answer(name, TWO_CALLS))
        assert not accepts(name, grammar_of(name, CallMode.required, is_parallel=False), answer(name, TWO_CALLS))


@pytest.mark.parametrize("name", JSON_CALLS)
def test_required_call_rejects_everything_else(name: str) -> None:
    grammar = grammar_of(name, CallMode.required, ALL[1:])
    assert not accepts(name, grammar, answer(name, {"content": "Rain."}))
    assert not accepts(name, grammar, answer(name, MESSAGES["call"]))  # of the first tool
    assert accepts(name, grammar, answer(name, {"content": None, "tool_calls": calls(("find-harbour", {"days": 2}))}))
    wrong = answer(name, {"content": None, "tool_calls": calls(("find-harbour", {"days": "two"}))})
    assert not accepts(name, grammar, wrong)


@pytest.mark.parametrize("name", JSON_CALLS)
def test_strict_tools_allow_text_or_right_calls(name: str) -> None:
    tools: list[dict[str, Any]] = TOOLS
    strict = tuple({**tool, "function": {**tool["function"], "strict": True}} for tool in tools)
    grammar = grammar_of(name, CallMode.auto, strict)
    assert accepts(name, grammar, answer(name, {"content": "Rain."}))
    assert accepts(name, grammar, answer(name, MESSAGES["call"]))
    wrong = answer(name, {"content": None, "tool_calls": calls(("find-harbour", {"days": "two"}))})
    assert not accepts(name, grammar, wrong)


@pytest.mark.parametrize("name", JSON_CALLS)
def test_schema_with_tools_allows_both(name: str) -> None:
    grammar = grammar_of(name, CallMode.auto, schema=SCHEMA)
    assert accepts(name, grammar, answer(name, {"content": '{"sum": 4}'}))
    assert accepts(name, grammar, answer(name, MESSAGES["call"]))
    assert not accepts(name, grammar, answer(name, {"content": "Four."}))


@pytest.mark.parametrize("name", DISTINCT)
def test_schema_allows_thoughts_before_the_text(name: str) -> None:
    grammar = structured_outputs(chat_templates.tokenizer(name), SCHEMA, CallRules(CallMode.none))
    assert accepts(name, grammar, answer(name, {"content": '{"sum": 4}'}))
    assert accepts(name, grammar, answer(name, {"content": '{"sum": 4}', "reasoning_content": "2 and 2"}))
    assert not accepts(name, grammar, answer(name, {"content": '{"sum": "4"}'}))


@pytest.mark.parametrize("name", ["trl/qwen2_5", "trl/qwen3"])
def test_json_has_little_whitespace(name: str) -> None:
    """A model that may write whitespace without end writes it until its tokens are used up."""
    schema = {"type": "object", "properties": {"sums": {"type": "array", "items": SCHEMA}}, "required": ["sums"]}
    grammar = structured_outputs(chat_templates.tokenizer(name), schema, CallRules(CallMode.none))
    value = {"sums": [{"sum": 4}, {"sum": 5}]}
    for written_as in ({}, {"separators": (",", ":")}, {"indent": 2}, {"indent": 4}, {"indent": "\t"}):
        assert accepts(name, grammar, json.dumps(value, **written_as))
    for space in ("  ", "\n\n", " \n", "\n" + " " * 33):
        assert not accepts(name, grammar, f'{{"sums":{space}[]}}')


@pytest.mark.parametrize("name", ["trl/qwen2_5", "axolotl/deepseek_v3"])
def test_schema_cannot_set_options_of_the_grammar(name: str) -> None:
    tokenizer = chat_templates.tokenizer(name)
    schema: dict[str, Any] = SCHEMA | {"x-guidance": {"whitespace_flexible": True}}
    tool = {"type": "function", "function": {"name": "go", "parameters": schema}}
    calls = CallRules(CallMode.required, (*ALL, tool), tools_param="functions")
    for answer_schema, rules, expected in (
        (schema, CallRules(CallMode.none), ("The JSON schema of the answer", "response_format")),
        (schema, CallRules(CallMode.auto, ALL), ("The JSON schema of the answer", "response_format")),
        (None, calls, ("The schema of the function 'go'", "functions")),
    ):
        with pytest.raises(InvalidRequest, match="has the keyword 'x-guidance'") as refused:
            structured_outputs(tokenizer, answer_schema, rules)
        assert (refused.value.message.split(" has ")[0], refused.value.param) == expected
    assert structured_outputs(tokenizer, None, CallRules(CallMode.auto, (tool,))) is None


def test_options_below_the_top_have_no_effect() -> None:
    inner: dict[str, Any] = SCHEMA | {"x-guidance": {"whitespace_flexible": True}}
    for schema in (
        {"$ref": "#/$defs/sum", "$defs": {"sum": inner}},
        {"$ref": "https://example.com/sum", "$defs": {"sum": inner | {"$id": "https://example.com/sum"}}},
        {"allOf": [inner]},
        {"anyOf": [inner, {"type": "null"}]},
        SCHEMA | {"properties": {"sum": {"type": "integer", "x-guidance": {}}, "x-guidance": {"type": "null"}}},
    ):
        grammar = structured_outputs(chat_templates.tokenizer("trl/qwen2_5"), schema, CallRules(CallMode.none))
        assert accepts("trl/qwen2_5", grammar, '{"sum": 4}')
        assert not accepts("trl/qwen2_5", grammar, '{"sum":   4}')


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9/schema", "file:///etc/hosts", "other.json#/a", "#/$defs/none"])
def test_schema_refers_to_itself_only(uri: str) -> None:
    """An engine reads no file and sends no request for a schema."""
    schema = {"type": "object", "properties": {"a": {"$ref": uri}}}
    outputs = structured_outputs(chat_templates.tokenizer("trl/qwen2_5"), schema, CallRules(CallMode.none))
    assert outputs is not None
    error = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(outputs["grammar"]))
    message, param = uncompiled_schema(outputs["grammar"], error, CallRules(CallMode.none)) or ("", "")
    assert param == "response_format"
    assert "does not fetch resources" in message or "does not exist" in message


def test_schema_that_does_not_compile_is_named() -> None:
    tokenizer = chat_templates.tokenizer("trl/qwen2_5")
    wrong = {"type": "object", "properties": {"at": {"type": "place"}}}
    tool = {"type": "function", "function": {"name": "go", "parameters": wrong}}
    calls = CallRules(CallMode.auto, (*ALL, tool), tools_param="functions")
    for schema, rules, expected in (
        (wrong, CallRules(CallMode.none), ("The JSON schema of the answer", "response_format")),
        (wrong, CallRules(CallMode.auto, ALL), ("The JSON schema of the answer", "response_format")),
        (SCHEMA, calls, ("The parameters of the function 'go'", "functions")),
    ):
        outputs = structured_outputs(tokenizer, schema, rules)
        assert outputs is not None
        error = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(outputs["grammar"]))
        message, param = uncompiled_schema(outputs["grammar"], error, rules) or ("", "")
        assert (message.split(" cannot be compiled: ")[0], param) == expected
        assert "cannot be compiled: Invalid type: place. Change" in message
        assert "\n" not in message


def test_plain_answers_need_no_grammar() -> None:
    tokenizer = chat_templates.tokenizer("trl/qwen3")
    assert structured_outputs(tokenizer, None, CallRules(CallMode.auto, ALL)) is None
    assert structured_outputs(tokenizer, None, CallRules(CallMode.none)) is None


def test_other_formats_are_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        grammar_of("trl/qwen3_6", CallMode.required)
    assert (refused.value.param, refused.value.code) == ("tool_choice", "unsupported_value")


def test_references_of_parameters_still_resolve() -> None:
    parameters = {
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/place"}, "next": {"$ref": "#"}},
        "required": ["at"],
        "$defs": {"place": {"type": "string", "enum": ["Oban"]}},
    }
    tool = {"type": "function", "function": {"name": "go", "parameters": parameters}}
    grammar = grammar_of("trl/qwen2_5", CallMode.required, (tool,))
    for arguments, is_right in (
        ({"at": "Oban", "next": {"at": "Oban"}}, True),
        ({"at": "Oban", "next": {"at": "B"}}, False),
    ):
        text = f"<tool_call>\n{json.dumps({'name': 'go', 'arguments': arguments})}\n</tool_call>"
        assert accepts("trl/qwen2_5", grammar, text) is is_right
