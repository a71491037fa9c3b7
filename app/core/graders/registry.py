"""Which function scores which type of grader."""

from collections.abc import Callable
from typing import Any, Final

from app.core.graders import math, text
from app.core.graders.types import Sample, Tools

Score = Callable[[Any, Sample, dict[str, Any], Tools], float]
"""(grader, sample, item, tools) -> reward. May raise GraderFailure, or anything: `run` makes it an error."""

GRADERS: Final[dict[str, Score]] = {
    "string_check": text.string_check,
    "math": math.math,
}
