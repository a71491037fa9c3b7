"""Mathematical equality by math-verify. Import this only in a killable process: it hangs on hostile input."""

import re
from fractions import Fraction
from math import inf
from typing import Any, Final

from math_verify import LatexExtractionConfig, parse, verify

from app.core.graders.math_answers import equal
from app.core.graders.numbers import Number, read_number, same_number

_DIGITS: Final = 30
_DEGREES: Final = re.compile(r"(\d+(?:\.\d+)?) ?°")


class _Failure(Exception):
    """The comparison has no result; the message gives the reason."""


def check(reference: str, answer: str) -> dict[str, Any]:
    """Compare two answers of `math_answers.final_answer`.

    Return whether they are equal; an error if the reference is no mathematical expression or the comparison fails.
    """
    try:
        return {"value": equal(reference, answer, _are_equal)}
    except _Failure as failure:
        return {"error": str(failure)}


def _are_equal(reference: str, answer: str) -> bool:
    golds = _parse(reference)
    if not golds:
        raise _Failure(f"the reference {reference[-80:]!r} contains no mathematical answer")
    targets = _parse(answer)
    for text, expressions, reference_is_number in ((reference, targets, True), (answer, golds, False)):
        number = read_number(text)
        if number is not None and number.mark != "°" and (value := _value(expressions[:1])):
            return same_number(number, value) if reference_is_number else same_number(value, number)
    failure = None
    for gold in golds:
        for target in targets:
            try:
                # None switches off math-verify's own time-outs, which use signal.alarm; the pool kills from outside.
                if verify(gold, target, timeout_seconds=None, raise_on_error=True, allow_set_relation_comp=True):
                    return True
            except Exception as error:  # sympy raises all kinds of exceptions; they must not count as a wrong answer
                failure = f"math-verify failed: {type(error).__name__}: {str(error)[:200]}"
    if failure is not None:
        raise _Failure(failure)
    return False


def _value(expressions: list[Any]) -> Number | None:
    """Return the value of a parsed real number, such as the square root of 2."""
    for expression in expressions:
        try:
            value = expression.doit()
            if value.is_rational:
                return Number(Fraction(int(value.p), int(value.q)), inf)
            if value.is_number and value.is_real:
                return Number(Fraction(str(value.evalf(_DIGITS))), inf)
        except Exception:  # noqa: S112 - not a number; math-verify compares it as an expression
            continue
    return None


def _parse(text: str) -> list[Any]:
    # math-verify reads 30^\circ as 30.
    text = _DEGREES.sub(r"\\frac{\1\\pi}{180}", text)
    return list(parse(f"${text}$", [LatexExtractionConfig()], parsing_timeout=None))


for _answer in (r"\boxed{\frac{1}{2}}", r"$x^2 + \sqrt{3}$", "the answer is 0.5"):
    check(r"$\frac{2}{4}$", _answer)  # fill the parser's caches, which forked workers inherit
