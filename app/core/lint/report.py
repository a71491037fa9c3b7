"""What a lint found, for people and programs."""

from typing import Any

from pydantic import Field

from app.core.files.validation_report import Issue
from app.core.spec.frozen import Frozen
from app.core.spec.job import GroupMix


class AnswerCount(Frozen):
    """How the graded answers of one source did."""

    graded: int
    """Those that have a reward."""
    passed: int
    """Of these, those that reach the grader's `pass_threshold`, or without one a reward of 1."""
    errors: int
    """Those that could not be graded: in a job they leave their group."""
    mean_reward: float | None


class GroupCount(Frozen):
    """The groups of the graded rows, by what their known answers (expert and teacher) say without the model's own."""

    contrast: int
    """They can differ in reward."""
    same: int
    """Two or more, and all of one reward."""
    few: int
    """None, or only one."""


class LintReport(Frozen):
    """What a file's expert and teacher answers would teach in groups of this mix, by one grader."""

    rows: int
    """Rows of the file."""
    rows_graded: int
    sample: str
    """Which rows these are."""
    stopped: bool
    """Whether time ran out before all of the sample was graded."""
    group: GroupMix
    experts: AnswerCount
    teachers: AnswerCount
    groups: GroupCount
    signal_share: float = Field(ge=0, le=1)
    """Expected share of groups that teach something whatever the model answers: their known answers differ.

    Of more teacher answers than `group.teacher`, each step draws some: a group then counts with the probability that
    those differ. A group of one counts if its reward is not 0.
    """
    signal_share_limit: float = Field(ge=0, le=1)
    """The most that the model's own answers can raise it to."""
    errors: tuple[Issue, ...]
    """Demonstrations that fail their own grader and answers that cannot be graded; the first ones."""
    error_count: int
    warnings: tuple[Issue, ...]
    """Groups without contrast among two or more known answers; the first ones."""
    warning_count: int

    @property
    def teaches_nothing(self) -> bool:
        """Whether all of the sample was graded and no group of it can have contrast."""
        return not self.stopped and self.rows_graded > 0 and self.signal_share_limit == 0

    def summary(self) -> str:
        """One line for an event or a terminal."""
        told = f"The known answers of {self.signal_share:.0%} of the groups differ in reward"
        if self.group.self_:
            told += f" (up to {self.signal_share_limit:.0%} with the model's own {self.group.self_})"
        if self.experts.graded:
            failed = self.experts.graded - self.experts.passed
            told += f"; {failed:,} of {self.experts.graded:,} demonstrations fail their own grader"
        if broken := self.experts.errors + self.teachers.errors:
            told += f"; {broken:,} answers cannot be graded"
        return f"{told}. Graded: {self.sample}" + (", until time ran out" if self.stopped else "")

    def refusal(self) -> str:
        """Why a job on this file would teach nothing, with lines, and what to do."""
        lines = "; ".join(map(str, (*self.warnings, *self.errors)[:3]))
        return (
            f"No group would have contrast, so the job would train nothing: `group.self` is {self.group.self_}, and in "
            f"none of the rows graded ({self.sample}) do the known answers differ in reward. "
            f"{lines or 'They have too few of them'}. Let the model answer too (`group.self` of 1 or more, 4 is the "
            "default), add teacher answers of other quality, or use method.type 'supervised'."
        )

    def numbers(self) -> dict[str, Any]:
        """The report without its lines, as JSON."""
        return self.model_dump(mode="json", by_alias=True, exclude={"errors", "warnings"})
