"""Similarity, regular expressions, JSON schemas, Python and multi graders: rewards and errors."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from app.core.graders.run import Grade, Sample, Toolbox, grade
from app.core.graders.types import ErrorType
from app.core.spec.answers import ParsedAnswer
from app.core.spec.graders import ANSWER, Grader, missing_fields

adapter: TypeAdapter[Grader] = TypeAdapter(Grader)


@pytest.fixture(scope="module")
def tools() -> Iterator[Toolbox]:
    with Toolbox(workers=1, limit_seconds=20) as opened:
        yield opened


def run(tools: Toolbox, fields: dict[str, Any], text: str, item: dict[str, Any] | None = None) -> Grade:
    return grade(adapter.validate_python(fields), Sample(output_text=text), item or {}, tools)


def similarity(metric: str) -> dict[str, Any]:
    answer, reference = "{{sample.output_text}}", "{{item.reference}}"
    return {"type": "text_similarity", "input": answer, "reference": reference, "evaluation_metric": metric}


METRICS = ("fuzzy_match", "bleu", "gleu", "meteor", *(f"rouge_{kind}" for kind in ("1", "2", "3", "4", "5", "l")))


@pytest.mark.parametrize("metric", METRICS)
def test_similarity_ranges_from_0_to_1(metric: str, tools: Toolbox) -> None:
    reference = {"reference": "the quick brown fox jumps over the lazy dog"}
    same = run(tools, similarity(metric), "the quick brown fox jumps over the lazy dog", reference).reward
    half = run(tools, similarity(metric), "the quick brown fox jumps over a cat", reference).reward
    other = run(tools, similarity(metric), "ZZZZ QQQQ", reference).reward
    assert same is not None
    assert half is not None
    assert other is not None
    assert same == pytest.approx(1, abs=0.01)  # METEOR penalises even a single chunk a little
    assert 0.1 < half < 0.9
    assert other < 0.1
    assert other < half < same


@pytest.mark.parametrize(
    ("metric", "text", "reference", "reward"),
    [
        ("rouge_1", "the cat", "the cat sat", 0.8),
        ("rouge_l", "sat the cat", "the cat sat", 2 / 3),
        ("fuzzy_match", "abcd", "abce", 0.75),
        ("gleu", "a b", "a b c", 0.5),
        ("bleu", "", "a", 0),
        ("meteor", "", "", 1),
    ],
)
def test_similarity_by_hand(metric: str, text: str, reference: str, reward: float, tools: Toolbox) -> None:
    assert run(tools, similarity(metric), text, {"reference": reference}).reward == pytest.approx(reward)


@pytest.mark.parametrize(
    ("fields", "text", "reward"),
    [
        ({"pattern": r"<think>.*</think>"}, "<think>x</think> 4", 1),
        ({"pattern": r"\d+", "match": "full"}, " 42\n", 1),
        ({"pattern": r"\d+", "match": "full"}, "42 apples", 0),
        ({"pattern": "paris", "ignore_case": True}, "PARIS", 1),
        ({"pattern": "paris"}, "PARIS", 0),
    ],
)
def test_regex(fields: dict[str, Any], text: str, reward: float, tools: Toolbox) -> None:
    assert run(tools, {"type": "regex", **fields}, text).reward == reward


SCHEMA = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ('{"answer": 4}', 1),
        ('```json\n{"answer": 4}\n```', 1),
        ('{"answer": "4"}', 0),
        ("the answer is 4", 0),
        ("[" * 100_000, 0),
    ],
)
def test_json_schema(text: str, reward: float, tools: Toolbox) -> None:
    assert run(tools, {"type": "json_schema", "schema": SCHEMA}, text).reward == reward


def test_schema_reference_is_not_downloaded(tools: Toolbox) -> None:
    graded = run(tools, {"type": "json_schema", "schema": {"$ref": "http://127.0.0.1:9/schema.json"}}, "{}")
    assert graded.reward is None
    assert "Unresolvable" in str(graded.error)


def test_schema_keeps_its_field_name() -> None:
    kept = adapter.validate_python({"type": "json_schema", "schema": SCHEMA}).model_dump(by_alias=True)
    assert kept["schema"] == SCHEMA


def python(source: str) -> dict[str, Any]:
    return {"type": "python", "source": source}


def test_python_gets_sample_and_item(tools: Toolbox) -> None:
    source = (
        "import json, re, math\n"
        "def grade(sample, item):\n"
        "    print('not shown')\n"
        "    right = sample['output_json']['x'] == item['x']\n"
        "    return 0.5 * right + 0.25 * math.sqrt(4) * len(sample['output_tools'])\n"
    )
    assert run(tools, python(source), '{"x": 3}', {"x": 3}).reward == 0.5


@pytest.mark.parametrize(
    ("body", "error_type", "message"),
    [
        ("    return 1 / 0", ErrorType.python_runtime, "ZeroDivisionError: division by zero (line 2)"),
        ("    return sample['output_text']", ErrorType.python_runtime, "returned str; return a number"),
        ("    pass", ErrorType.python_runtime, "returned nothing for this answer; return a number"),
        ("    return float('nan')", ErrorType.other, "finite number"),
        ("    return open('/etc/passwd').read()", ErrorType.python_runtime, "Permission denied"),
        ("    return grade(sample, item)", ErrorType.python_runtime, "recursion"),
        ("    return [0] * 10**9", ErrorType.python_runtime, "memory limit"),
        ("    while True: pass", ErrorType.python_runtime, "time limit"),
        ("    import time\n    time.sleep(10**6)\n    while True: pass", ErrorType.python_runtime, "time limit"),
        ("    print('x' * 10**7)\n    return 1", ErrorType.python_runtime, "MemoryError"),
    ],
)
def test_failing_python_is_an_error(body: str, error_type: ErrorType, message: str, tools: Toolbox) -> None:
    graded = run(tools, python(f"def grade(sample, item):\n{body}\n"), "4")
    assert (graded.reward, graded.error_type) == (None, error_type)
    assert message in str(graded.error)


def test_python_has_no_state_between_answers(tools: Toolbox) -> None:
    source = "seen = []\ndef grade(sample, item):\n    seen.append(1)\n    return len(seen)"
    assert [run(tools, python(source), "4").reward for _ in range(3)] == [1, 1, 1]


def test_python_clock_and_random_are_fixed(tools: Toolbox) -> None:
    source = (
        "import random, datetime\ndef grade(sample, item):\n    return random.random() + datetime.datetime.now().year"
    )
    assert run(tools, python(source), "4").reward == run(tools, python(source), "4").reward


MULTI = {
    "type": "multi",
    "graders": {
        "right": {"type": "math", "reference": "{{item.answer}}"},
        "short": {"type": "python", "source": "def grade(sample, item):\n    return 1 / len(sample['output_text'])"},
    },
    "calculate_output": "0.75 * right + 0.25 * min(1, 2 * short)",
    "pass_threshold": 0.9,
}


def test_multi_combines_its_parts(tools: Toolbox) -> None:
    graded = run(tools, MULTI, "4", {"answer": "4"})
    assert (graded.reward, graded.passed) == (1.0, True)
    assert graded.scores == {"right": 1.0, "short": 1.0, "multi": 1.0}
    assert run(tools, MULTI, "four, 5", {"answer": "4"}).passed is False


def test_multi_fails_with_one_failed_part(tools: Toolbox) -> None:
    graded = run(tools, MULTI, "", {"answer": "4"})
    assert (graded.reward, graded.error_type) == (None, ErrorType.python_runtime)
    assert graded.scores == {"right": 0.0}


def test_multi_formula_without_a_value_is_an_error(tools: Toolbox) -> None:
    graded = run(tools, MULTI | {"calculate_output": "1 / right"}, "5", {"answer": "4"})
    assert (graded.reward, graded.error_type) == (None, ErrorType.formula_parse)


PART = {"type": "string_check", "name": "exact", "input": "{{sample.output_text}}", "reference": "4", "operation": "eq"}


@pytest.mark.parametrize("graders", [{"exact": PART}, [PART], PART], ids=["dict", "list", "single"])
def test_multi_accepts_three_shapes(graders: Any, tools: Toolbox) -> None:
    assert run(tools, {"type": "multi", "graders": graders, "calculate_output": "exact"}, "4").reward == 1


def test_missing_fields_in_multi_parts() -> None:
    assert missing_fields(adapter.validate_python(MULTI), {"x"}) == [("graders.right.reference", "answer")]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (similarity("cosine"), "compares embeddings"),
        ({"type": "regex", "pattern": "("}, "is not a regular expression: missing )"),
        ({"type": "regex", "pattern": "(" * 1999 + ")" * 1999}, "is not a regular expression"),
        ({"type": "json_schema", "schema": {"type": "integre"}}, "is not a JSON schema: $.type"),
        (python("def grade(sample, item)\n    return 1"), "line 1: expected ':'"),
        (python("def score(sample, item):\n    return 1"), "does not define the function 'grade'"),
        (python("def grade(sample):\n    return 1"), "write 'def grade(sample, item):'"),
        (python("#" + "é" * 200_000), "more than 256 KiB"),
        (python("x = " + "(" * 100_000), "is not valid Python"),
        ({**MULTI, "calculate_output": "rihgt"}, "uses 'rihgt', but the graders are right, short"),
        ({**MULTI, "calculate_output": "1 +"}, "calculate_output: the formula needs"),
        ({**MULTI, "graders": {"a": MULTI}}, "multi"),
        ({**MULTI, "graders": [PART, PART]}, "a distinct name"),
    ],
)
def test_validation_error_names_the_problem(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python(fields)
    assert message in str(caught.value)


HUGE = "a " * 5_000_000


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"type": "regex", "pattern": "(a+)+$"}, "a" * 64 + "b"),
        (similarity("fuzzy_match"), HUGE),
        (similarity("rouge_l"), HUGE),
        (similarity("meteor"), HUGE),
        ({"type": "json_schema", "schema": {"pattern": "^(a+)+$"}}, json.dumps("a" * 64 + "b")),
        ({"type": "math", "reference": "4"}, r"$10^{10^{10^{10}}}$"),
        (python("def grade(sample, item):\n    return len(sample['output_text'] * 1000)"), HUGE),
    ],
    ids=["regex", "fuzzy match", "rouge", "meteor", "pattern of a schema", "endless LaTeX", "memory bomb"],
)
@pytest.mark.slow
def test_hostile_answers_take_bounded_time(fields: dict[str, Any], text: str) -> None:
    with Toolbox(workers=1, limit_seconds=1.0) as tools:
        started = time.monotonic()
        graded = run(tools, fields, text, {"reference": "b " * 20_000})
        assert time.monotonic() - started < 30  # on a busy machine, starting a process takes time too
    assert graded.reward is None
    assert graded.error_type in (ErrorType.unresponsive, ErrorType.other, ErrorType.python_runtime)
    assert graded.error


@pytest.mark.parametrize(
    ("fields", "reward"),
    [
        ({"type": "string_check", "input": ANSWER, "reference": "a a", "operation": "like"}, 1),
        ({"type": "regex", "pattern": "b"}, 0),
        ({"type": "regex", "pattern": "(a )+", "match": "full"}, 0),
        ({"type": "json_schema", "schema": {}}, 0),
        (python("def grade(sample, item):\n    return len(sample['output_text'])"), len(HUGE)),
    ],
)
def test_answer_of_10_mb_is_graded(fields: dict[str, Any], reward: float, tools: Toolbox) -> None:
    assert run(tools, fields, HUGE).reward == reward


def test_answer_of_1_mb_has_no_number(tools: Toolbox) -> None:
    fields = {"type": "math", "reference": "4", "answer": "last_number"}
    assert run(tools, fields, HUGE[:1_000_000]).reward == 0


@pytest.mark.parametrize("text", [r"\frac{" * 50_000, "$" + "(" * 20_000, r"\boxed{" * 9_000])
def test_endless_latex_is_never_right(text: str) -> None:
    with Toolbox(workers=1, limit_seconds=1.0) as tools:
        graded = run(tools, {"type": "math", "reference": "4"}, text)
    assert (graded.reward, graded.error is None) in ((0.0, True), (None, False))


def test_choices_are_read_as_at_openai(tools: Toolbox) -> None:
    reads = {"type": "string_check", "reference": "4", "operation": "eq"}
    for path in ("output_text", "output_json", "choices[0].message.content"):
        assert run(tools, reads | {"input": f"{{{{ sample.{path} }}}}"}, "4").reward == 1, path
    grader = adapter.validate_python(reads | {"input": "{{sample.output_json.x}}"})
    for finished, error_type in ((True, ErrorType.sample_parse), (False, ErrorType.truncated)):
        graded = grade(grader, Sample(output_text='{"x": ', finished=finished), {}, tools)
        assert (graded.reward, graded.error_type) == (None, error_type)
    ended = grade(
        adapter.validate_python(
            python("def grade(sample, item):\n    return len(sample['choices'][0]['finish_reason'])")
        ),
        Sample(output_text="4", finished=False),
        {},
        tools,
    )
    assert ended.reward == len("length")


def test_calls_and_thoughts_are_read_apart(tools: Toolbox) -> None:
    call = {"id": "call_0", "type": "function", "function": {"name": "add", "arguments": '{"n": 4}'}}
    sample = Sample.of(ParsedAnswer("Adding.", "Two pairs.", (call,)))
    values = {
        "output_text": "Adding.",
        "output_reasoning": "Two pairs.",
        "output_tools[0].function.name": "add",
        "output_tools[0].function.arguments": '{"n": 4}',
        "choices[0].message.tool_calls[0].id": "call_0",
        "choices[0].message.reasoning_content": "Two pairs.",
        "choices[0].finish_reason": "tool_calls",
    }
    for path, value in values.items():
        fields = {"type": "string_check", "reference": value, "operation": "eq", "input": f"{{{{sample.{path}}}}}"}
        assert grade(adapter.validate_python(fields), sample, {}, tools).reward == 1, path
    source = (
        "import json\n"
        "def grade(sample, item):\n"
        "    call = sample['output_tools'][0]['function']\n"
        "    return json.loads(call['arguments'])['n'] + len(sample['output_reasoning'])\n"
    )
    assert grade(adapter.validate_python(python(source)), sample, {}, tools).reward == 14
