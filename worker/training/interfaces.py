"""Interfaces of the trainer loop: reporter, stop flag, rollout engine, source of teacher answers."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from app.core.spec.job import Sampling
from app.core.spec.reports import Report
from worker.training.model import Policy
from worker.training.types import Completion, Prompt, UsableAnswer


class Reporter(Protocol):
    """Receives the trainer's reports in order."""

    def __call__(self, report: Report, /) -> None:
        """Delivers one report. Must not raise."""


class StopFlag(Protocol):
    """A stop request, checked once per optimiser step."""

    def is_set(self) -> bool:
        """Returns whether the run should write a checkpoint and stop now."""

    def wait(self, timeout: float) -> bool:
        """Block until the run should stop, at most `timeout` seconds; return whether it should."""


CompletionCallback = Callable[[int, int, Completion], None]
"""(prompt index, index among the prompt's completions, completion). Called from any thread."""


class RolloutEngine(Protocol):
    """Samples completions from the current policy, in this process or on a server."""

    policy: Policy

    @property
    def needs_cores(self) -> bool:
        """Whether sampling keeps this machine's CPU busy."""

    def awake(self) -> AbstractContextManager[None]:
        """Returns a block in which `sample` can be called. All ranks must enter it, and compute little inside it."""

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        count: int,
        sampling: Sampling,
        random: torch.Generator | None,
        on_completion: CompletionCallback | None = None,
    ) -> list[list[Completion]]:
        """Samples `count` completions for each prompt and returns them in order. Decodes greedily without `random`.

        Calls `on_completion` for each completion as soon as it is finished, while others are still being generated.
        """


class TeacherAnswerSource(Protocol):
    """Provides the teacher answers of a run before the step that needs them."""

    def begin(self, step: int) -> None:
        """Starts or continues to fetch answers for `step` and later steps. Does not block."""

    def prepare(self, step: int, stop: StopFlag) -> None:
        """Blocks until every answer that `step` will get has arrived, or `stop` is set. Raises `JobFailure`."""

    def answers(self, prompts: Sequence[Prompt]) -> dict[int, tuple[UsableAnswer, ...]]:
        """Returns the teacher answers by the line of their row. All ranks use the answers of rank 0."""

    def close(self) -> None:
        """Stops sending requests."""
