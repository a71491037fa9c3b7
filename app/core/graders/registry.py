"""Maps each grader type to its function. `run` combines the parts of a multi grader."""

from collections.abc import Callable
from typing import Any, Final

from app.core.graders import endpoint, math, model_judge, python_sandbox, reasoning_gym, text
from app.core.graders.types import Sample, Scored, Tools
from app.core.spec.graders import BaseGrader, EndpointGrader, Judge, parts

Score = Callable[[Any, Sample, dict[str, Any], Tools], float | Scored]
"""(grader, sample, item, tools) -> reward. May raise GraderFailure or any other exception; `run` reports both."""

GRADERS: Final[dict[str, Score]] = {
    "string_check": text.string_check,
    "text_similarity": text.text_similarity,
    "math": math.math,
    "regex": text.regex,
    "json_schema": text.json_schema,
    "reasoning_gym": reasoning_gym.reasoning_gym,
    "python": python_sandbox.python,
    "score_model": model_judge.score_model,
    "label_model": model_judge.label_model,
    "endpoint": endpoint.endpoint,
}


def waits(grader: BaseGrader) -> bool:
    """Return whether the grader waits for another machine, and therefore costs almost no CPU here."""
    return any(isinstance(part, Judge | EndpointGrader) for part in parts(grader))
