"""Rewards and advantages: grades every group member, demonstrations included, and tracks grader errors."""

import threading
from collections import deque
from concurrent.futures import Future
from typing import Final

from app.core.graders.run import Grade, GraderPool
from app.core.spec.advantages import group_advantages, has_contrast
from app.core.spec.reports import TrainerExit
from worker.training.types import GroupMember, JobFailure, Prompt, PromptGroup

WINDOW: Final = 200
"""Number of recent grades over which the error rate is computed."""
MAX_ERROR_RATE: Final = 0.10


class GraderHealth:
    """Fails the job when more than 10 % of the recent grades are errors."""

    def __init__(self) -> None:
        self._recent: deque[bool] = deque(maxlen=WINDOW)
        self.errors = 0

    def note(self, grade: Grade) -> None:
        """Counts one grade. Raises `JobFailure` with the grader's own message once too many have failed."""
        failed = grade.reward is None
        self._recent.append(failed)
        self.errors += failed
        # The limit is absolute (20 errors), so it also applies before the window is full. A short job never fills it.
        if sum(self._recent) > MAX_ERROR_RATE * WINDOW:
            raise JobFailure(
                TrainerExit.bad_data,
                "grader_errors",
                f"{sum(self._recent)} of the last {len(self._recent)} grades failed. Latest error: {grade.error}",
                "method.grader",
            )


class Grading:
    """Grades the members of one step, overlapping with sampling where that costs the sampler nothing.

    Graders on other machines receive members as they complete, so their latency hides behind sampling. Graders on this
    machine wait until sampling is done, unless it leaves the CPU cores idle.
    """

    def __init__(self, pool: GraderPool, *, has_idle_cores: bool = False) -> None:
        """`has_idle_cores`: sampling runs elsewhere, so local graders can run at the same time."""
        self._pool = pool
        self._is_eager = pool.waits or has_idle_cores
        self._lock = threading.Lock()
        self._pending: list[tuple[Prompt, GroupMember]] = []
        self._submitted: list[tuple[list[GroupMember], Future[list[Grade]]]] = []

    def add(self, prompt: Prompt, member: GroupMember) -> None:
        """Adds a member to grade. Thread-safe."""
        with self._lock:
            self._pending.append((prompt, member))
            if self._is_eager and len(self._pending) >= self._pool.batch_size:
                self._submit()

    def _submit(self) -> None:
        members, self._pending = self._pending, []
        pairs = [(member.sample, prompt.item) for prompt, member in members]
        chunks = self._pool.submit(pairs)
        size = self._pool.batch_size
        for number, chunk in enumerate(chunks):
            self._submitted.append(([member for _, member in members[number * size : (number + 1) * size]], chunk))

    def finish(self, groups: list[PromptGroup], health: GraderHealth) -> None:
        """Waits for all grades and sets reward and advantage of every member of `groups`.

        Every member must have been added before. A member whose grade failed keeps None for both and leaves its group;
        it never gets reward 0.
        """
        with self._lock:
            self._submit()
        for members, chunk in self._submitted:
            for member, grade in zip(members, chunk.result(), strict=True):
                health.note(grade)
                member.reward, member.error, member.scores = grade.reward, grade.error, dict(grade.scores)
        _set_group_advantages(groups)


def _set_group_advantages(groups: list[PromptGroup]) -> None:
    # A_k = (R_k - mean_G R) / (std_G R + eps), over the whole hybrid group: normalising each source on its own would
    # hide that demonstrations are better or worse than rollouts.
    for group in groups:
        rewards = [member.reward for member in group.members]
        for member, advantage in zip(group.members, group_advantages(rewards), strict=True):
            member.advantage = advantage
        group.zero_variance = not has_contrast([reward for reward in rewards if reward is not None])


def set_imitation_advantages(groups: list[PromptGroup]) -> None:
    """Sets A = 1 for every member: supervised and dft train on demonstrations only and grade nothing."""
    for group in groups:
        for member in group.members:
            member.advantage = 1.0
