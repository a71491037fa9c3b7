"""Grades every member of every group, the expert too, and sets the advantages. Watches the graders' health."""

from collections import deque
from typing import Final

from app.core.graders.run import Grade, GraderPool, Sample
from app.core.spec.reports import TrainerExit
from worker.training.advantages import group_advantages, has_contrast
from worker.training.types import JobFailure, PromptGroup

WINDOW: Final = 200
"""Grades that the error rate is taken over."""
MAX_ERROR_RATE: Final = 0.10


class GraderHealth:
    """Fails the job when more than a tenth of the recent grades are errors."""

    def __init__(self) -> None:
        self._recent: deque[bool] = deque(maxlen=WINDOW)
        self.errors = 0

    def note(self, grade: Grade) -> None:
        """Counts one grade; raises `JobFailure` with the grader's own words once too many fail."""
        failed = grade.reward is None
        self._recent.append(failed)
        self.errors += failed
        # Also before the window is full: so many errors fail it whatever comes, and a short job never fills it.
        if sum(self._recent) > MAX_ERROR_RATE * WINDOW:
            raise JobFailure(
                TrainerExit.bad_data,
                "grader_errors",
                f"{sum(self._recent)} of the last {len(self._recent)} grades failed; the newest said: {grade.error}",
                "method.grader",
            )


def grade_groups(groups: list[PromptGroup], pool: GraderPool, health: GraderHealth) -> None:
    """Sets reward and advantage of each member.

    A member whose grade failed keeps `None` for both and leaves its group; it is never rewarded 0.
    """
    members = [(group.prompt, member) for group in groups for member in group.members]
    grades = pool.grade_many([(Sample(output_text=member.text), prompt.item) for prompt, member in members])
    for (_, member), grade in zip(members, grades, strict=True):
        health.note(grade)
        member.reward, member.error, member.scores = grade.reward, grade.error, dict(grade.scores)
    for group in groups:
        rewards = [member.reward for member in group.members]
        for member, advantage in zip(group.members, group_advantages(rewards), strict=True):
            member.advantage = advantage
        group.zero_variance = not has_contrast([reward for reward in rewards if reward is not None])


def imitate_groups(groups: list[PromptGroup]) -> None:
    """The advantage of supervised and dft: 1 for every demonstration."""
    for group in groups:
        for member in group.members:
            member.advantage = 1.0
