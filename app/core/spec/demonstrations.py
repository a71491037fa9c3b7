"""Which demonstrations a job trains, and the result of grading them before training."""

from typing import Annotated, Literal

from pydantic import AfterValidator, ValidationInfo

from app.core.spec.frozen import Frozen


def _can_grade(choice: str, info: ValidationInfo) -> str:
    """Refuse `graded` where it cannot work. The fields `grader` and `group` must stand before this one."""
    if choice == "all":
        return choice
    if "grader" in info.data and info.data["grader"] is None:
        raise ValueError("'graded' needs a `grader`, which decides what demonstrations pass: set one, or use 'all'")
    if getattr(info.data.get("group"), "expert", 1) == 0:
        raise ValueError("'graded' has no effect with group.expert 0: set group.expert to 1, or use 'all'")
    return choice


Demonstrations = Annotated[Literal["all", "graded"], AfterValidator(_can_grade)]
"""`graded`: a row whose demonstration does not pass the grader trains without it."""


class GradedDemonstrations(Frozen):
    """The demonstrations of a job's rows, graded once before training. Passing is that of the lint."""

    total: int
    """Demonstrations to grade: those of the rows that the job can use."""
    passed: int = 0
    """Those that reach the grader's `pass_threshold`, or a reward of 1 without a threshold."""
    failed: int = 0
    """Those that do not."""
    errors: int = 0
    """Those that could not be graded; they are not trained either."""

    @property
    def graded(self) -> int:
        """Number of demonstrations that the grader has seen."""
        return self.passed + self.failed + self.errors

    @property
    def is_complete(self) -> bool:
        """Whether all demonstrations are graded."""
        return self.graded >= self.total
