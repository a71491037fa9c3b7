"""What the loop asks of the world outside: where to report to, whether to stop, completions of the policy, teachers."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from app.core.spec.job import Sampling
from app.core.spec.reports import Report
from worker.training.model import Policy
from worker.training.types import Completion, Prompt, UsableAnswer


class Reporter(Protocol):
    """Receives what happened, in order."""

    def __call__(self, report: Report, /) -> None:
        """Delivers one report; must not fail the run."""


class StopFlag(Protocol):
    """Asked once per optimiser step."""

    def is_set(self) -> bool:
        """Whether the run should checkpoint and stop now."""


Drawn = Callable[[int, int, Completion], None]
"""(index of the prompt, index among its completions, completion), from any thread."""


class RolloutEngine(Protocol):
    """Draws completions from the policy as it is at that moment, wherever that is computed."""

    policy: Policy

    @property
    def needs_cores(self) -> bool:
        """Whether sampling keeps this machine's CPU busy."""

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        count: int,
        sampling: Sampling,
        random: torch.Generator | None,
        drawn: Drawn | None = None,
    ) -> list[list[Completion]]:
        """`count` completions for each prompt, in order. Without `random` decoding is greedy.

        `drawn` hears of each completion as soon as it is whole, while others are still being written.
        """


class TeacherAnswerSource(Protocol):
    """Sees to it that the teacher's answers are there when a step needs them."""

    def begin(self, step: int) -> None:
        """Goes on getting answers for `step` and those after it; waits for nothing."""

    def prepare(self, step: int, stop: StopFlag) -> None:
        """Returns once all is there that `step` will get, or the run is to stop. Raises `JobFailure`."""

    def answers(self, prompts: Sequence[Prompt]) -> dict[int, tuple[UsableAnswer, ...]]:
        """The teacher's answers by the line of their row; those that rank 0 has go for all processes."""

    def close(self) -> None:
        """Nothing more is asked."""
