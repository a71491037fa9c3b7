"""The `math` grader: is the final answer of a response mathematically equal to the reference?

`math_answers` finds and compares answers. Only what needs math-verify runs behind `tools.isolated` (`checks.math`),
because math-verify can hang on hostile input.
"""

from typing import Any

from app.core.graders.math_answers import NeedsAlgebra, equal, final_answer, final_number
from app.core.graders.templates import render, render_alternatives
from app.core.graders.types import GraderFailure, Sample, Tools
from app.core.spec.graders import MathGrader


def math(grader: MathGrader, sample: Sample, item: dict[str, Any], tools: Tools) -> float:
    """Return 1.0 or 0.0. A response without an answer is wrong; a reference without one raises GraderFailure.

    A reference that is a list in the row names the accepted answers. All of them together are accepted too.
    """
    accepted = render_alternatives(grader.reference, sample, item)
    if len(accepted) > 1:
        accepted.append(", ".join(accepted))
    references = [final_answer(text) for text in accepted]
    if "" in references:
        raise GraderFailure(f"the reference {accepted[references.index('')][-80:]!r} contains no answer")
    text = render(grader.input, sample, item)
    answer = final_number(text) if grader.answer == "last_number" else final_answer(text)
    return float(bool(answer) and any(_is_equal(reference, answer, tools) for reference in references))


def _is_equal(reference: str, answer: str, tools: Tools) -> bool:
    try:
        return equal(reference, answer)
    except NeedsAlgebra:
        return bool(tools.isolated("math", reference, answer))
