"""`/v1/fine_tuning/alpha/graders` with the real SDK."""

from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI
from openai.types.fine_tuning.alpha.grader_run_response import GraderRunResponse

from tests.api.server import Server, lenient_and_strict

EXACT = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}

JUDGE = {
    "type": "score_model",
    "name": "judge",
    "model": "judge-1",
    "input": [{"role": "user", "content": "{{sample.output_text}}"}],
}


def run(client: OpenAI, grader: Any, text: str, item: object = None) -> GraderRunResponse:
    return client.fine_tuning.alpha.graders.run(grader=grader, model_sample=text, item=item or {"answer": "4"})


@lenient_and_strict
def test_a_grader_is_run(client: OpenAI) -> None:
    result = run(client, EXACT, "4")
    assert (result.reward, result.metadata.name, result.metadata.type) == (1.0, "exact", "string_check")
    assert result.metadata.scores == {"exact": 1.0}
    assert result.metadata.passed  # type: ignore[attr-defined]
    assert not run(client, EXACT, "5").metadata.passed  # type: ignore[attr-defined]
    assert result.metadata.execution_time >= 0
    assert not any(value for name, value in result.metadata.errors.to_dict().items() if name.endswith("_error"))


def test_a_wrong_answer_is_no_error(client: OpenAI) -> None:
    result = run(client, EXACT, "5")
    assert (result.reward, result.metadata.errors.other_error) == (0, False)


@lenient_and_strict
def test_failure_sets_its_flag(client: OpenAI) -> None:
    result = run(client, EXACT, "4", {"other": 1})
    assert result.metadata.errors.invalid_variable_error is True
    assert "item.answer does not exist" in str(result.metadata.to_dict()["error"])
    source = "def grade(sample, item):\n    return 1 / 0"
    result = run(client, {"type": "python", "name": "p", "source": source}, "4")
    assert result.metadata.errors.python_grader_runtime_error is True
    assert "(line 2)" in str(result.metadata.errors.python_grader_runtime_error_details)


@lenient_and_strict
def test_parts_of_a_multi_are_shown(client: OpenAI) -> None:
    similar = {
        "type": "text_similarity",
        "name": "similar",
        "input": "{{sample.output_text}}",
        "reference": "{{item.answer}}",
        "evaluation_metric": "fuzzy_match",
    }
    multi = {
        "type": "multi",
        "name": "both",
        "graders": {"exact": EXACT, "similar": similar},
        "calculate_output": "(exact + similar) / 2",
    }
    result = run(client, multi, "44")
    assert result.sub_rewards == {"exact": 0.0, "similar": pytest.approx(2 / 3)}
    assert result.reward == pytest.approx(1 / 3)


def test_tool_calls_can_be_sent(client: OpenAI) -> None:
    grader = EXACT | {"input": "{{sample.output_tools[0].function.name}}", "reference": "search"}
    result: Any = client.post(
        "/fine_tuning/alpha/graders/run",
        body={"grader": grader, "model_sample": "", "sample": {"output_tools": [{"function": {"name": "search"}}]}},
        cast_to=object,
    )
    assert result["reward"] == 1


@lenient_and_strict
def test_a_grader_is_validated_and_echoed(client: OpenAI) -> None:
    grader: Any = EXACT | {"operation": "neq"}
    result = client.fine_tuning.alpha.graders.validate(grader=grader)
    assert result.to_dict() == {"grader": EXACT | {"operation": "ne"}}


@pytest.mark.parametrize(
    ("grader", "param", "message"),
    [
        ({"type": "vibes"}, "grader", "string_check"),
        (EXACT | {"reference": "{{item.x"}, "grader.reference", "add '}}'"),
        ({"type": "python", "source": "x = 1"}, "grader.source", "def grade(sample, item)"),
        (
            {"type": "python", "source": "import numpy\ndef grade(sample, item):\n    return 1"},
            "grader.source",
            "line 1: the sandbox has no module 'numpy'",
        ),
        (JUDGE, "grader", "GROUPTUNE_JUDGE_URL"),
        ({"type": "endpoint", "url": "https://10.0.0.1/grade"}, "grader.url", "10.0.0.1"),
        (
            {"type": "multi", "graders": {"exact": EXACT}, "calculate_output": "exakt"},
            "grader",
            "uses 'exakt', but the graders are exact",
        ),
    ],
)
def test_invalid_grader_is_explained(client: OpenAI, grader: Any, param: str, message: str) -> None:
    with pytest.raises(BadRequestError, match=r".+") as caught:
        client.fine_tuning.alpha.graders.validate(grader=grader)
    assert str(caught.value.param).startswith(param)
    assert message in str(caught.value)


REGEX: Any = {"type": "regex", "name": "digits", "input": "{{sample.output_text}}", "pattern": "[0-9]+"}
MULTI: Any = {"type": "multi", "name": "both", "graders": {"a": EXACT, "b": REGEX}, "calculate_output": "a + b"}


@pytest.mark.parametrize(
    ("grader", "shown"),
    [
        (REGEX, "python"),
        (MULTI, "multi"),
        ({"type": "endpoint", "name": "far", "url": "https://example.com"}, "python"),
    ],
)
def test_strict_clients_get_openais_types(server: Server, grader: Any, shown: str) -> None:
    """The SDK has no type for such graders, and one part of a `multi`."""
    result = server.client(strict=True).fine_tuning.alpha.graders.validate(grader=grader)
    assert result.grader is not None
    assert (result.grader.type, result.grader.name) == (shown, grader["name"])
    whole = result.to_dict()["whole_grader"]
    path: Any = "/fine_tuning/alpha/graders/validate"
    assert server.client().post(path, body={"grader": grader}, cast_to=object) == {"grader": whole}
    assert whole["type"] == grader["type"]  # type: ignore[index]


def test_pass_threshold_of_every_grader(client: OpenAI) -> None:
    grader: Any = EXACT | {"pass_threshold": 0.5}
    assert client.fine_tuning.alpha.graders.validate(grader=grader).to_dict() == {"grader": grader}


def test_it_needs_the_scope_for_jobs(server: Server) -> None:
    answer = httpx.post(f"{server.url}/v1/fine_tuning/alpha/graders/validate", json={"grader": EXACT}, trust_env=False)
    assert answer.status_code == 401
