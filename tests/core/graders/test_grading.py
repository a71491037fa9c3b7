import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.core.graders import registry, run
from app.core.graders.checks.math import check
from app.core.graders.math import equal_plain, last_number
from app.core.graders.run import Grade, GraderPool, Sample, grade
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


@pytest.mark.parametrize(
    ("reference", "text", "reward"),
    [
        ("4", "4", 1),
        ("4", "4.0", 1),
        ("4", r"\boxed{4}", 1),
        ("-4", "4", 0),
        ("1/2", r"so it is \boxed{0.5}.", 1),
        ("0.5", r"$\frac{1}{2}$", 1),
        (r"\frac{1}{2}", "1/2", 1),
        ("1/3", "0.333333", 1),
        ("1,000", "1000", 1),
        ("72", "First 70, then 2 more.\nThe answer is 72.", 1),
        ("72", "Adding up:\n#### 73", 0),
        ("She has 5 + 67 clips.\n#### 72", r"\boxed{72}", 1),
        (r"2\sqrt{3}", r"\boxed{\sqrt{12}}", 1),
        (r"2\sqrt{3}", "2", 0),
        ("2", r"2\sqrt{3}", 0),
        ("x^2+1", r"\boxed{1+x^2}", 1),
        ("(1,2)", r"\boxed{(1,2)}", 1),
        ("3", "x = 3", 1),
        ("50%", r"\boxed{50\%}", 1),
        ("4", "I do not know.", 0),
        ("4", "", 0),
        ("4", r"\boxed{", 0),
    ],
)
def test_math(pool: GraderPool, reference: str, text: str, reward: float) -> None:
    assert pool.grade_many([(Sample(output_text=text), {"answer": reference})]) == [
        Grade(reward=reward, scores={"math": reward}, passed=reward == 1)
    ]


def test_math_reference_without_answer_is_an_error(pool: GraderPool) -> None:
    [graded] = pool.grade_many([(Sample(output_text="maybe 4?"), {"answer": "no idea"})])
    assert graded.reward is None
    assert graded.error is not None
    assert "the reference 'no idea' contains no mathematical answer" in graded.error


numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,6})?", fullmatch=True) | st.sampled_from(
    ["0", "-0", "0.0", "-0.0", "1", "1.0", "1.000000", "1.000001", "999999999.999999", "999999999.999998"]
)
boxed = numbers.map(lambda digits: f"\\boxed{{{digits}}}")
plain = numbers | boxed | numbers.map(lambda digits: f" {digits}\n")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("60 + 92 = 152.", "152"),
        ("so it is 1,234.50, I think", "1234.50"),
        ("x = -3", "-3"),
        ("5-3", "3"),
        ("(2)-7", "7"),
        ("\\boxed{-8}", "-8"),
        ("3.", "3"),
        ("12, 15", "15"),
        ("none", ""),
    ],
)
def test_last_number_of_a_text(text: str, number: str) -> None:
    assert last_number(text) == number


def test_last_number_ignores_a_repeated_question(pool: GraderPool) -> None:
    repeated, solved = Sample(output_text="60 + 92 is an expression."), Sample(output_text="60 + 92 = 152.")
    answers = [(repeated, {"answer": "152"}), (solved, {"answer": "152"})]
    assert [grade.reward for grade in pool.grade_many(answers)] == [1.0, 1.0]
    with GraderPool(MathGrader(reference="{{item.answer}}", answer="last_number")) as numbers:
        assert [grade.reward for grade in numbers.grade_many(answers)] == [0.0, 1.0]


@settings(deadline=None)
@given(plain, plain)
def test_number_shortcut_agrees_with_math_verify(reference: str, answer: str) -> None:
    for text in (answer, reference):
        assert check(reference, text) == {"value": equal_plain(reference, text)}


@pytest.mark.parametrize("text", ["1234567890", "1.0000001", ".5", "+5", "1e5", "007", "1,000", "", "\u0663", "1/2"])
def test_number_shortcut_skips_other_input(text: str) -> None:
    assert equal_plain(text, "1") is None
    assert equal_plain("1", text) is None


def test_plain_numbers_start_no_process() -> None:
    with GraderPool(MATH) as opened:
        assert opened.grade_many([(Sample(output_text="4"), {"answer": "4"})] * 3)[2].reward == 1
        assert opened._tools._pools == {}


def test_grades_keep_the_sample_order(pool: GraderPool) -> None:
    pairs = [(Sample(output_text=rf"$\frac{{{n % 5}}}{{2}}$"), {"answer": "3/2"}) for n in range(40)]
    assert [graded.reward for graded in pool.grade_many(pairs)] == [float(n % 5 == 3) for n in range(40)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "1", True])
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
