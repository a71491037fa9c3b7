"""Grades responses: one with `grade`, many at once with `GraderPool`. A failure is never a reward of 0."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Self

from app.core.graders.math_pool import MathPool
from app.core.graders.registry import GRADERS
from app.core.graders.types import ErrorType, Grade, GraderFailure, Sample, Tools
from app.core.spec.graders import BaseGrader

__all__ = ["Grade", "GraderPool", "Sample", "grade"]


def grade(grader: BaseGrader, sample: Sample, item: dict[str, Any], tools: Tools | None = None) -> Grade:
    """What `grader` makes of `sample`, answering the row `item`. Never raises for what it is given to grade.

    `tools` default to ones shared by the whole process, which start nothing before they must.
    """
    kind = str(getattr(grader, "type", type(grader).__name__))
    try:
        reward = GRADERS[kind](grader, sample, item, tools or _shared_tools())
    except GraderFailure as failure:
        return _failed(grader, str(failure), failure.error_type)
    except Exception as error:  # the boundary: whatever a grader raises is that sample's error
        return _failed(grader, f"{type(error).__name__}: {error}", ErrorType.other)
    if isinstance(reward, bool) or not isinstance(reward, int | float) or not math.isfinite(reward):
        return _failed(grader, f"returned {reward!r} where a finite number is needed", ErrorType.other)
    return Grade(reward=float(reward), scores={_name(grader): float(reward)})


class GraderPool:
    """Grades with one grader, on several threads and killable subprocesses. A context manager."""

    def __init__(self, grader: BaseGrader, *, workers: int | None = None, limit_seconds: float = 5.0) -> None:
        """`limit_seconds` of wall time a math check; `workers` processes at most (default: cores, to 4)."""
        self.grader = grader
        self._tools = MathPool(workers, limit_seconds)
        self._threads = ThreadPoolExecutor(self._tools.workers, thread_name_prefix="grader")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def grade_many(self, pairs: Sequence[tuple[Sample, dict[str, Any]]]) -> list[Grade]:
        """One grade for each (sample, item), in their order."""
        return list(self._threads.map(lambda pair: grade(self.grader, pair[0], pair[1], self._tools), pairs))

    def close(self) -> None:
        """Ends threads and processes."""
        self._threads.shutdown(cancel_futures=True)
        self._tools.close()


@cache
def _shared_tools() -> MathPool:
    return MathPool()  # its server sees when this process ends


def _failed(grader: BaseGrader, message: str, error_type: ErrorType) -> Grade:
    return Grade(reward=None, error=f"grader {_name(grader)!r}: {message}", error_type=error_type)


def _name(grader: BaseGrader) -> str:
    return str(getattr(grader, "name", "grader"))
