"""The `math` grader: is the final answer of a response mathematically equal to the reference?

Plain numbers are compared here; everything else goes to math-verify, which can hang on hostile input and therefore
runs only behind `tools.isolated` (see `isolated`). This module does not import it.
"""

import re
from decimal import Decimal
from typing import Any, Final

from app.core.graders.templates import render
from app.core.graders.types import Sample, Tools
from app.core.spec.graders import MathGrader

# Only numbers that math-verify compares exactly: it rounds floats to 6 decimals and keeps 15 digits.
_NUMBER: Final = r"(-?(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,6})?)"
# A sign belongs to the number unless an operand precedes it: "5-3" ends in 3, "x = -3" in -3.
_ANY_NUMBER: Final = re.compile(r"(?:(?<![\w.)}])-)?\d+(?:,\d{3})*(?:\.\d+)?")
_PLAIN: Final = re.compile(rf"{_NUMBER}|\\boxed\{{{_NUMBER}\}}")


def math(grader: MathGrader, sample: Sample, item: dict[str, Any], tools: Tools) -> float:
    """Return 1.0 or 0.0. A response without an answer is wrong; a reference without one raises GraderFailure."""
    answer = render(grader.input, sample, item)
    reference = render(grader.reference, sample, item)
    if grader.answer == "last_number":
        answer = last_number(answer)
        if not answer:
            return 0.0
    equal = equal_plain(reference, answer)
    return float(tools.isolated("math", reference, answer) if equal is None else equal)


def last_number(text: str) -> str:
    """Return the last number of a text, without thousands separators; empty if there is none."""
    numbers = _ANY_NUMBER.findall(text)
    return numbers[-1].replace(",", "") if numbers else ""


def equal_plain(reference: str, answer: str) -> bool | None:
    """Return whether two plain or boxed numbers are equal as math-verify would decide; None if it must decide."""
    numbers = (_plain(reference), _plain(answer))
    if numbers[0] is None or numbers[1] is None:
        return None
    return numbers[0] == numbers[1]


def _plain(text: str) -> Decimal | None:
    match = _PLAIN.fullmatch(text.strip())
    return match and Decimal(match[1] or match[2])
