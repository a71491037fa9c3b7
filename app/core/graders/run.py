"""Grades answers: one with `grade`, many at once with `GraderPool`. A failure is never a reward of 0."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, Final, Self

from app.core.deadline import Deadline
from app.core.graders.endpoint import endpoint_many
from app.core.graders.registry import GRADERS, waits
from app.core.graders.toolbox import CONNECTIONS, ExternalServices, Toolbox
from app.core.graders.types import ErrorType, Grade, GraderFailure, Sample, Scored, TokenUsage, Tools
from app.core.spec.formula import parse_formula
from app.core.spec.graders import MAX_REWARD, BaseGrader, EndpointGrader, MultiGrader
from app.core.spec.teacher_answers import storable

__all__ = ["ExternalServices", "Grade", "GraderPool", "Sample", "Toolbox", "grade"]

UNCLIPPED: Final = "/unclipped"
"""Suffix of a score: the number of a judge that was outside of its range."""
ROUNDING: Final = 1e-9
"""Tolerance of thresholds, for sums of parts that miss a threshold only by rounding."""

Pair = tuple[Sample, dict[str, Any]]
"""An answer, and the row that it answers."""


def grade(grader: BaseGrader, sample: Sample, item: dict[str, Any], tools: Tools | None = None) -> Grade:
    """Grade `sample` as an answer to the row `item`. Never raises: every failure becomes the grade's error.

    The default `tools` are shared by the whole process and start their processes on first use.
    """
    tools = tools or _shared_tools()
    if isinstance(grader, MultiGrader):
        return _combined(grader, {key: grade(part, sample, item, tools) for key, part in grader.graders.items()})
    try:
        score = GRADERS[str(getattr(grader, "type", ""))](grader, sample, item, tools)
    except Exception as error:  # error boundary: an exception of any grader is an error of this sample only
        return _failed(grader, error)
    return _grade(grader, score)


class GraderPool:
    """Grades with one grader, on several threads and killable subprocesses. A context manager."""

    def __init__(
        self,
        grader: BaseGrader,
        outside: ExternalServices | None = None,
        *,
        workers: int | None = None,
        limit_seconds: float = 5.0,
        tools: Toolbox | None = None,
        deadline: Deadline | None = None,
    ) -> None:
        """Each check may take `limit_seconds` of wall time; at most `workers` processes (default: cores, up to 4).

        Given `tools` are used and stay open; the arguments before them then have no effect. Grades that are not done
        at the deadline are errors.
        """
        self.grader = grader
        self._owns_tools = tools is None
        self._tools = tools or Toolbox(outside, workers=workers, limit_seconds=limit_seconds)
        self._calls: Tools = self._tools if deadline is None else self._tools.until(deadline)
        self.waits = waits(grader)
        """Whether grading mostly waits for other machines and can overlap with other work."""
        threads = CONNECTIONS if self.waits else self._tools.workers
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="grader")
        self.batch_size = grader.batch_size if isinstance(grader, EndpointGrader) else 1
        """Most answers that are graded together."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, pairs: Sequence[Pair]) -> list[Future[list[Grade]]]:
        """Start grading; each future holds the grades of the next `batch_size` pairs, in order."""
        chunks = [pairs[start : start + self.batch_size] for start in range(0, len(pairs), self.batch_size)]
        return [self._threads.submit(self._grade, chunk) for chunk in chunks]

    def grade_many(self, pairs: Sequence[Pair]) -> list[Grade]:
        """Return one grade per (sample, item), in order."""
        return [grade for chunk in self.submit(pairs) for grade in chunk.result()]

    def close(self) -> None:
        """End threads and processes. Shared tools stay open, and threads end after their current grade."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._owns_tools:
            self._tools.close()
            self._threads.shutdown()

    def _grade(self, pairs: Sequence[Pair]) -> list[Grade]:
        if not isinstance(self.grader, EndpointGrader):
            return [grade(self.grader, sample, item, self._calls) for sample, item in pairs]
        try:
            results = endpoint_many(self.grader, pairs, self._calls)
        except Exception as error:  # error boundary, as in `grade`
            return [_failed(self.grader, error) for _ in pairs]
        return [
            _failed(self.grader, result) if isinstance(result, GraderFailure) else _grade(self.grader, result)
            for result in results
        ]


@cache
def _shared_tools() -> Toolbox:
    return Toolbox()  # its processes end with this process


def _combined(grader: MultiGrader, grades: Mapping[str, Grade]) -> Grade:
    """Apply the formula to the parts. If one part has no reward, the whole has none."""
    usage: dict[str, TokenUsage] = {}
    for part in grades.values():
        for model, tokens in part.usage.items():
            usage[model] = usage.get(model, TokenUsage()) + tokens
    rewards = {key: part.reward for key, part in grades.items() if part.reward is not None}
    unclipped = {
        f"{key}{UNCLIPPED}": score
        for key, part in grades.items()
        for name, score in part.scores.items()
        if name.endswith(UNCLIPPED)
    }
    failed = next((part for part in grades.values() if part.reward is None), None)
    if failed is not None:
        return Grade(
            reward=None,
            error=failed.error,
            error_type=failed.error_type,
            is_transient=failed.is_transient,
            scores=rewards,
            usage=usage,
        )
    try:
        reward = parse_formula(grader.calculate_output).evaluate(rewards)
    except (ArithmeticError, ValueError) as error:
        failure = GraderFailure(f"the formula has no value for {rewards}: {error}", ErrorType.formula_parse)
        return _failed(grader, failure).model_copy(update={"scores": rewards, "usage": usage})
    return _grade(grader, Scored(reward, usage), rewards | unclipped)


def _grade(grader: BaseGrader, score: float | Scored, rewards: Mapping[str, float] | None = None) -> Grade:
    reward = score.reward if isinstance(score, Scored) else score
    usage = dict(score.usage) if isinstance(score, Scored) else {}
    unclipped = score.unclipped if isinstance(score, Scored) else None
    clipped = {} if unclipped is None or unclipped == reward else {f"{_name(grader)}{UNCLIPPED}": unclipped}
    if isinstance(reward, bool) or not isinstance(reward, int | float) or not abs(reward) <= MAX_REWARD:  # NaN, too
        failure = GraderFailure(f"returned {reward!r}; return a finite number from -1e9 to 1e9")
        return _failed(grader, failure).model_copy(update={"usage": usage})
    threshold = getattr(grader, "pass_threshold", None)
    return Grade(
        reward=float(reward),
        scores={**(rewards or {}), _name(grader): float(reward), **clipped},
        usage=usage,
        passed=reward >= (1.0 if threshold is None else threshold) - ROUNDING,
    )


def _failed(grader: BaseGrader, error: Exception) -> Grade:
    message = str(error) if isinstance(error, GraderFailure) else f"{type(error).__name__}: {error}"
    error_type = error.error_type if isinstance(error, GraderFailure) else ErrorType.other
    is_transient = isinstance(error, GraderFailure) and error.is_transient
    message = storable(f"grader {_name(grader)!r}: {message}")
    return Grade(reward=None, error=message, error_type=error_type, is_transient=is_transient)


def _name(grader: BaseGrader) -> str:
    return str(getattr(grader, "name", "grader"))
