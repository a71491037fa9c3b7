"""The `reasoning_gym` grader. This module does not import reasoning-gym, which runs behind `tools.isolated`."""

import importlib.util
import json
from typing import Any, Final

from app.core.graders.templates import render
from app.core.graders.types import ErrorType, GraderFailure, Sample, Tools
from app.core.spec.graders import ReasoningGymGrader

_FIELDS: Final = frozenset({"dataset", "answer", "metadata"})
_OPEN: Final = "<answer>"
_CLOSE: Final = "</answer>"


def reasoning_gym(grader: ReasoningGymGrader, sample: Sample, item: dict[str, Any], tools: Tools) -> float:
    """Return the score of the data set's verifier, from 0 to 1."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise GraderFailure("the verifiers are not installed on this machine; run: pip install 'grouptune[data]'")
    try:
        entry = json.loads(render(grader.entry, sample, item))
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict) or not entry.keys() >= _FIELDS:
        message = f"{grader.entry} must be an object with {', '.join(sorted(_FIELDS))}, as in generated rows"
        raise GraderFailure(message, ErrorType.invalid_variable)
    return float(tools.isolated("reasoning_gym", entry, final_answer(render(grader.input, sample, item))))


def final_answer(text: str) -> str:
    """Return the stripped text between the last <answer> and </answer>, or the whole text without these tags."""
    end = text.rfind(_CLOSE)
    start = text.rfind(_OPEN, 0, max(0, end))
    return (text[start + len(_OPEN) : end] if end >= 0 and start >= 0 else text).strip()
