"""The input of the Responses API, read as chat messages; errors name the fields that the client sent."""

from typing import Any, Final

import pytest

from app.core.errors import InvalidRequest
from app.core.inference.response_input import read_input

CALL: Final = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    ("items", "param"),
    [
        ([CALL, {"type": "function_call_output", "call_id": "a", "output": 1}], "input.1.output"),
        ([CALL, {"type": "function_call_output", "call_id": "a"}], "input.1.output"),
        ([CALL, {**CALL, "call_id": "b", "arguments": "{"}], "input.1.arguments"),
        ([{"type": "message", "role": "user", "content": "x"}, {**CALL, "arguments": 5}], "input.1"),
        ([{"type": "reasoning", "content": 5}], "input.0.content"),
        ([{"type": "reasoning", "summary": "x"}], "input.0.summary"),
        ([{"type": ["message"]}], "input.0.type"),
        ([{"role": "user", "content": 5}], "input.0.content"),
        ([{"role": ["user"], "content": "x"}], "input.0.role"),
    ],
)
def test_error_names_the_field_that_was_sent(items: list[Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_input(items, "Be brief.")
    assert (refused.value.param or "").startswith(param)
    assert param in refused.value.message
    assert "tool_calls" not in f"{refused.value.param} {refused.value.message}".partition("must be like")[0]
    assert "messages." not in refused.value.message


def test_calls_of_one_answer_are_one_message() -> None:
    items = [CALL, {**CALL, "call_id": "b"}, {"type": "function_call_output", "call_id": "b", "output": "1"}]
    call, output = read_input(items, None)
    assert [each["id"] for each in call["tool_calls"]] == ["a", "b"]
    assert (output["role"], output["content"]) == ("tool", "1")
