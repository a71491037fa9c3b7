import math
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from app.core.graders import registry, run
from app.core.graders.run import GraderPool, Sample, grade
from app.core.graders.types import ErrorType
from app.core.spec.graders import Grader, MathGrader, StringCheckGrader, missing_fields

adapter: TypeAdapter[Grader] = TypeAdapter(Grader)
ITEM: dict[str, str] = {}
MATH = MathGrader(reference="{{item.answer}}")


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(MATH, workers=2, limit_seconds=20) as opened:
        yield opened


def string_check(operation: str, reference: str, text: str) -> float | None:
    grader = adapter.validate_python(
        {
            "type": "string_check",
            "input": "{{sample.output_text}}",
            "reference": reference,
            "operation": operation,
        }
    )
    return grade(grader, Sample(output_text=text), {}).reward


@pytest.mark.parametrize(
    ("operation", "reference", "text", "reward"),
    [
        ("eq", "4", "4", 1),
        ("eq", "4", " 4", 0),
        ("ne", "4", "5", 1),
        ("neq", "4", "4", 0),
        ("like", "Paris", "It is Paris.", 1),
        ("like", "paris", "It is Paris.", 0),
        ("like", "P%s", "Paris", 0),
        ("ilike", "paris", "It is PARIS.", 1),
        ("ilike", "STRASSE", "straße", 1),
    ],
)
def test_string_check(operation: str, reference: str, text: str, reward: float) -> None:
    assert string_check(operation, reference, text) == reward


def test_defaults_of_name_and_input() -> None:
    assert adapter.validate_python({"type": "math", "reference": "4"}) == MathGrader(
        name="math", input="{{sample.output_text}}", reference="4"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": "vibes"}, "string_check"),
        ({"type": "math"}, "reference"),
        ({"type": "math", "reference": "4", "tolerance": 1}, "tolerance"),
        ({"type": "math", "reference": "{{item}}"}, "does not name a field of the row"),
        ({"type": "math", "reference": "{{item.a"}, "add '}}'"),
        ({"type": "string_check", "input": "a", "reference": "b", "operation": "is"}, "operation"),
    ],
)
def test_invalid_grader_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python(fields)
    assert message in str(caught.value)


def test_missing_fields_have_their_template() -> None:
    grader = StringCheckGrader(
        input="{{sample.output_text}} {{item.a}}",
        reference="{{item.b.c}}{{item.b}}{{item.d}}",
        operation="eq",
    )
    assert missing_fields(grader, {"d"}) == [("input", "a"), ("reference", "b")]
    assert missing_fields(grader, ["a", "b", "d"]) == []


def test_grades_keep_the_sample_order(pool: GraderPool) -> None:
    pairs = [(Sample(output_text=rf"$\frac{{{n % 5}}}{{2}}$"), {"answer": "3/2"}) for n in range(40)]
    assert [graded.reward for graded in pool.grade_many(pairs)] == [float(n % 5 == 3) for n in range(40)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e10, -1e308, None, "1", True])
def test_non_finite_reward_is_an_error(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.GRADERS, "math", lambda *_: value)
    graded = grade(MATH, Sample(output_text="4"), {"answer": "4"})
    assert graded.reward is None
    assert graded.error is not None
    assert "finite number" in graded.error


def test_exception_in_a_grader_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.GRADERS, "math", lambda *_: ITEM["x"])
    assert grade(MATH, Sample(output_text="4"), {}).error == "grader 'math': KeyError: 'x'"


def test_missing_item_field_is_an_error() -> None:
    graded = grade(MATH, Sample(output_text="4"), {})
    assert (graded.reward, graded.error_type) == (None, ErrorType.invalid_variable)


def test_single_grade_uses_shared_workers() -> None:
    assert grade(MATH, Sample(output_text=r"$\frac{1}{2}$"), {"answer": "0.5"}).reward == 1
    run._shared_tools().close()
