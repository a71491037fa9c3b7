"""Grades every member of every group, the expert too, and sets the advantages. Watches the graders' health."""

import threading
from collections import deque
from concurrent.futures import Future
from typing import Final

from app.core.graders.run import Grade, GraderPool, Sample
from app.core.spec.advantages import group_advantages, has_contrast
from app.core.spec.reports import TrainerExit
from worker.training.types import GroupMember, JobFailure, Prompt, PromptGroup

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


class Grading:
    """Grades the members of one step.

    Those that other machines grade go out as they appear, so that waiting for them hides behind the rollouts. So does
    what this machine grades itself, unless the rollouts need its cores: then it begins when they are done.
    """

    def __init__(self, pool: GraderPool, *, has_idle_cores: bool = False) -> None:
        """`has_idle_cores`: the rollouts are drawn elsewhere, so that this machine can grade beside them too."""
        self._pool = pool
        self._is_eager = pool.waits or has_idle_cores
        self._lock = threading.Lock()
        self._waiting: list[tuple[Prompt, GroupMember]] = []
        self._sent: list[tuple[list[GroupMember], Future[list[Grade]]]] = []

    def add(self, prompt: Prompt, member: GroupMember) -> None:
        """Takes a member in; from any thread."""
        with self._lock:
            self._waiting.append((prompt, member))
            if self._is_eager and len(self._waiting) >= self._pool.batch_size:
                self._send()

    def _send(self) -> None:
        members, self._waiting = self._waiting, []
        pairs = [(Sample(output_text=member.text, finished=member.finished), prompt.item) for prompt, member in members]
        chunks = self._pool.submit(pairs)
        size = self._pool.batch_size
        for number, chunk in enumerate(chunks):
            self._sent.append(([member for _, member in members[number * size : (number + 1) * size]], chunk))

    def finish(self, groups: list[PromptGroup], health: GraderHealth) -> None:
        """Sets reward and advantage of each member of `groups`, which were all taken in.

        A member whose grade failed keeps `None` for both and leaves its group; it is never rewarded 0.
        """
        with self._lock:
            self._send()
        for members, chunk in self._sent:
            for member, grade in zip(members, chunk.result(), strict=True):
                health.note(grade)
                member.reward, member.error, member.scores = grade.reward, grade.error, dict(grade.scores)
        _compare(groups)


def _compare(groups: list[PromptGroup]) -> None:
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
