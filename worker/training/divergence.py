"""Divergence checks: a sampler that disagrees with the trainer, and repeated non-finite gradients."""

import math
from collections.abc import Mapping
from typing import Final

from app.core.plurals import plural
from app.core.spec.reports import Message, TrainerExit
from worker.training.interfaces import Reporter
from worker.training.types import JobFailure

GAP_ALARM: Final = 0.1
"""Mean difference of log p, in nats per token. bf16 on a CPU stays at or below 0.05; above 0.1 the rollouts are
off-policy."""
GIVE_UP_AFTER: Final = 5
"""Steps in a row with a non-finite gradient after which the job fails."""
_GAP: Final = "sampling/sampling_logp_difference"


class DivergenceMonitor:
    """Warns once about a sampling gap and about each skipped step; fails the job after too many in a row."""

    def __init__(self, report: Reporter) -> None:
        self.report = report
        self._has_warned_of_gap = False
        self._non_finite_steps = 0

    def note(self, step: int, values: Mapping[str, float | None]) -> None:
        """Checks the metrics of one finished step. Raises `JobFailure` when training has diverged."""
        self._check_gap(step, values.get(f"{_GAP}/mean"), values.get(f"{_GAP}/max"))
        if math.isfinite(values["grad_norm"] or 0.0):
            self._non_finite_steps = 0
            return
        self._non_finite_steps += 1
        self.report(Message(level="warn", message=f"Step {step} was skipped: its gradient is not finite"))
        if self._non_finite_steps >= GIVE_UP_AFTER:
            raise JobFailure(
                TrainerExit.diverged,
                "diverged",
                f"The gradients of {plural(self._non_finite_steps, 'step')} in a row, up to step {step}, were not "
                "finite. Lower hyperparameters.learning_rate_multiplier.",
                "method.hyperparameters.learning_rate_multiplier",
            )

    def _check_gap(self, step: int, mean: float | None, largest: float | None) -> None:
        if self._has_warned_of_gap or mean is None or mean <= GAP_ALARM:
            return
        self._has_warned_of_gap = True
        self.report(
            Message(
                level="warn",
                message=f"Step {step}: the log-probabilities of sampler and trainer differ by {mean:.3g} nats per "
                f"token (at most {largest:.3g}), so the rollouts are not exactly on-policy",
            )
        )
