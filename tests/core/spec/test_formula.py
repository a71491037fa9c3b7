import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.spec.formula import MAX_DEPTH, parse_formula


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("8 / 4 / 2", 1),
        ("2 - 3 - 4", -5),
        ("-2^2", -4),
        ("2^3^2", 512),
        ("2^-1", 0.5),
        ("a * 0.5 + b*.5", 0.75),
        ("min(a, b, 0.2)", 0.2),
        ("max(a, b)", 1),
        ("abs(-3) + floor(1.7) + ceil(1.2)", 6),
        ("exp(0) + sqrt(4) + log(1)", 3),
        ("1e2", 100),
        ("--a", 1),
        ("größe_1", 7),
    ],
)
def test_value(text: str, value: float) -> None:
    assert parse_formula(text).evaluate({"a": 1.0, "b": 0.5, "größe_1": 7.0}) == pytest.approx(value)


def test_names_are_collected() -> None:
    assert parse_formula("min(a, b) + 2*a - c_1").names == {"a", "b", "c_1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a number, a name or '(' at character 1, but has its end there"),
        ("1 +", "at character 4, but has its end there"),
        ("(1", "needs ')' at character 3"),
        ("1 2", "complete before '2' at character 3"),
        ("a ; b", "an invalid character ';' at character 3"),
        ("open(1)", "an unknown function 'open' at character 1; use one of min, max"),
        ("a.b", "an invalid character '.' at character 2"),
        ("min(1)", "takes at least two arguments"),
        ("sqrt(1, 2)", "takes one argument"),
        ("'os'", 'an invalid character "\'" at character 1'),
        ("(" * 99 + "1" + ")" * 99, "nested deeper"),
        ("2^" * 500 + "2", "nested deeper"),
        ("1+" * 2000 + "1", "more than 2000 characters"),
    ],
)
def test_parse_error_gives_the_position(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="formula") as caught:
        parse_formula(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["1/0", "9^9^9^9", "log(0)", "sqrt(-1)", "exp(1000)", "(-8)^(1/3)"])
def test_without_a_value(text: str) -> None:
    with pytest.raises((ArithmeticError, ValueError)):
        parse_formula(text).evaluate({})


@given(st.recursive(st.floats(0.1, 9).map(repr), lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner)))
def test_agrees_with_python(tree: object) -> None:
    def written(node: object) -> str:
        return node if isinstance(node, str) else f"({written(node[0])}{node[1]}{written(node[2])})"  # type: ignore[index]

    text = written(tree)
    if text.count("(") > MAX_DEPTH or len(text) > 2000:
        return
    try:
        expected = eval(text)  # noqa: S307
    except ZeroDivisionError:
        return
    assert math.isclose(parse_formula(text).evaluate({}), expected)
