"""Graders written in Python by users; the sandbox is in `toolbox`."""

from typing import Any

from app.core.graders.types import ErrorType, GraderFailure, Sample, Tools
from app.core.spec.graders import PythonGrader


def python(grader: PythonGrader, sample: Sample, item: dict[str, Any], tools: Tools) -> float:
    """What its `grade` returns. Anything but a number is its error, and never a reward of 0."""
    value = tools.python(grader.source, sample.for_code(), item)
    if not isinstance(value, int | float):
        message = f"grade() returned {type(value).__name__}, where a number is needed"
        raise GraderFailure(message, ErrorType.python_runtime)
    return float(value)
