"""Watches a run for what makes its numbers worthless: a sampler that disagrees with the trainer, and divergence."""

import math
from collections.abc import Mapping
from typing import Final

from app.core.spec.reports import Message, TrainerExit
from worker.training.interfaces import Reporter
from worker.training.types import JobFailure

GAP_ALARM: Final = 0.1
"""Nats a token; bf16 on a CPU was seen at up to 0.05. Above, rollouts are off-policy without saying so."""
GIVE_UP_AFTER: Final = 5
"""Steps in a row whose gradient is not finite."""
_GAP: Final = "sampling/sampling_logp_difference"


class DivergenceMonitor:
    """Speaks once about a sampling gap, and about every skipped step until it gives up."""

    def __init__(self, report: Reporter) -> None:
        self.report = report
        self._told_gap = False
        self._broken = 0

    def note(self, step: int, values: Mapping[str, float | None]) -> None:
        """Takes the metrics of one finished step. Raises `JobFailure` when training has diverged."""
        self._note_gap(step, values.get(f"{_GAP}/mean"), values.get(f"{_GAP}/max"))
        if math.isfinite(values["grad_norm"] or 0.0):
            self._broken = 0
            return
        self._broken += 1
        self.report(Message(level="warn", message=f"Step {step} was skipped: its gradient is not finite"))
        if self._broken >= GIVE_UP_AFTER:
            raise JobFailure(
                TrainerExit.diverged,
                "diverged",
                f"The gradients of {self._broken} steps in a row, up to step {step}, were not finite: lower "
                "hyperparameters.learning_rate_multiplier.",
                "method.hyperparameters.learning_rate_multiplier",
            )

    def _note_gap(self, step: int, mean: float | None, largest: float | None) -> None:
        if self._told_gap or mean is None or mean <= GAP_ALARM:
            return
        self._told_gap = True
        self.report(
            Message(
                level="warn",
                message=f"Step {step}: sampler and trainer disagree about log-probabilities by {mean:.3g} nats a token "
                f"(at most {largest:.3g}); the rollouts are not quite the policy's own",
            )
        )
