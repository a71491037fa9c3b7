"""Graders that compare text."""

from typing import Any

from app.core.graders.templates import render
from app.core.graders.types import Sample, Tools
from app.core.spec.graders import StringCheckGrader


def string_check(grader: StringCheckGrader, sample: Sample, item: dict[str, Any], _tools: Tools) -> float:
    """1.0 or 0.0. `like` and `ilike` are containment, as at OpenAI, not SQL patterns."""
    text = render(grader.input, sample, item)
    reference = render(grader.reference, sample, item)
    match grader.operation:
        case "eq":
            return float(text == reference)
        case "ne":
            return float(text != reference)
        case "like":
            return float(reference in text)
        case "ilike":
            return float(reference.casefold() in text.casefold())
