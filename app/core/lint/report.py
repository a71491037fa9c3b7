"""Results of a lint, for people and programs."""

from typing import Any

from pydantic import Field

from app.core.files.validation_report import Issue
from app.core.plurals import plural
from app.core.spec.frozen import Frozen
from app.core.spec.job import GroupMix
from app.core.spec.reports import Source


class AnswerCount(Frozen):
    """Grading results of the answers of one source."""

    graded: int
    """Answers with a reward."""
    passed: int
    """Graded answers that reach the grader's `pass_threshold`, or a reward of 1 without a threshold."""
    errors: int
    """Answers whose grading failed; in a job they leave their group."""
    mean_reward: float | None
    """Mean reward of the graded answers; null if none was graded."""


class RewardBin(Frozen):
    """The graded answers whose reward is in an interval."""

    start: float
    """Smallest reward."""
    end: float
    """Largest reward: equal to `start` if there are few different rewards, else not included, except for the last."""
    answers: int
    """Number of graded answers."""


class GradedAnswer(Frozen):
    """An answer of the file with its grade."""

    line: int
    """Line of the row."""
    source: Source
    """Where the answer comes from."""
    text: str
    """Its start."""
    reward: float | None
    """Null if grading failed."""
    error: str | None
    """Why grading failed."""


class GroupCount(Frozen):
    """The groups of the graded rows, classified by their known answers (expert and teacher)."""

    contrast: int
    """Groups whose known answers can differ in reward."""
    same: int
    """Groups with two or more known answers that all have the same reward."""
    few: int
    """Groups with at most one known answer."""


class LintReport(Frozen):
    """The training signal of a file's expert and teacher answers, for one group mix and one grader."""

    rows: int
    """Rows in the file."""
    rows_graded: int
    """Rows whose answers were graded."""
    sample: str
    """A description of the graded rows."""
    stopped: bool
    """Whether time ran out before the whole sample was graded."""
    group: GroupMix
    """The group mix that the report is about."""
    experts: AnswerCount
    """Grading results of the demonstrations."""
    teachers: AnswerCount
    """Grading results of the teacher answers."""
    groups: GroupCount
    """The groups of the graded rows by contrast."""
    signal_share: float = Field(ge=0, le=1)
    """Expected fraction of groups with a training signal regardless of rollouts: their known answers differ in reward.

    If a row has more than `group.teacher` teacher answers, each step draws some of them; the group counts with the
    probability that the drawn answers differ. A group of one counts if its reward is not 0.
    """
    signal_share_limit: float = Field(ge=0, le=1)
    """Upper bound of the fraction with rollouts included."""
    errors: tuple[Issue, ...]
    """The first demonstrations that fail their own grader and answers that cannot be graded."""
    error_count: int
    """Number of all errors."""
    warnings: tuple[Issue, ...]
    """The first groups whose two or more known answers have no contrast."""
    warning_count: int
    """Number of all warnings."""
    rewards: tuple[RewardBin, ...] = ()
    """Distribution of the rewards of all graded answers."""
    worst: tuple[GradedAnswer, ...] = ()
    """The answers that could not be graded, then those with the lowest rewards; at most 10."""
    several_valid: int = 0
    """Graded rows with two or more different answers that pass the grader. Case and spaces make no difference."""

    @property
    def teaches_nothing(self) -> bool:
        """Whether the whole sample was graded and no group in it can have contrast."""
        return not self.stopped and self.rows_graded > 0 and self.signal_share_limit == 0

    @property
    def has_signal(self) -> bool:
        """Whether a group can have a training signal, rollouts included."""
        return self.signal_share_limit > 0

    @property
    def has_pass(self) -> bool:
        """Whether a demonstration passes the grader."""
        return self.experts.passed > 0

    @property
    def passing_share(self) -> float | None:
        """Share of the demonstrations that pass; those that cannot be graded do not. None without demonstrations."""
        tried = self.experts.graded + self.experts.errors
        return self.experts.passed / tried if tried else None

    @property
    def has_no_pass(self) -> bool:
        """Whether all rows were graded and no demonstration passes."""
        return not self.stopped and self.rows_graded == self.rows and self.passing_share == 0

    def summary(self) -> str:
        """One line for an event or a terminal."""
        parts: list[str] = []
        if self.group.size > 1:
            rollouts = f" (up to {self.signal_share_limit:.0%} with the {plural(self.group.self_, 'rollout')})"
            differ = f"The known answers of {self.signal_share:.0%} of the groups differ in reward"
            parts.append(differ + (rollouts if self.group.self_ else ""))
        if self.experts.graded:
            failed = self.experts.graded - self.experts.passed
            parts.append(f"{failed:,} of {plural(self.experts.graded, 'demonstration')} fail their own grader")
        if broken := self.experts.errors + self.teachers.errors:
            parts.append(f"{plural(broken, 'answer')} cannot be graded")
        text = "; ".join(parts) or "No answer was graded"
        return f"{text}. Graded: {self.sample}" + (", until time ran out" if self.stopped else "")

    def offer(self) -> str | None:
        """Offer to train without the demonstrations that fail; None if none fails, or if none would be left."""
        rejected = self.experts.graded + self.experts.errors - self.experts.passed
        if not rejected or not self.experts.passed:
            return None
        total = plural(self.experts.graded + self.experts.errors, "demonstration")
        verb, them = ("does", "it") if rejected == 1 else ("do", "them")
        return f"{rejected:,} of {total} {verb} not pass the grader. Train without {them}: `demonstrations: graded`"

    def refusal(self) -> str:
        """The reason why a job on this file would train nothing, with line numbers and remedies."""
        lines = "; ".join(map(str, (*self.warnings, *self.errors)[:3]))
        return (
            f"No group would have contrast, so the job would train nothing: `group.self` is {self.group.self_}, and no "
            f"graded row ({self.sample}) has known answers with different rewards. "
            f"{lines or 'The rows have too few known answers'}. Add rollouts (`group.self` of 1 or more; the default "
            "is 4), add teacher answers of different quality, or use method.type 'supervised'."
        )

    def numbers(self) -> dict[str, Any]:
        """Return the counts of the report as JSON."""
        return self.model_dump(mode="json", by_alias=True, exclude={"errors", "warnings", "rewards", "worst"})
