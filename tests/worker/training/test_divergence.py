"""Warnings and the failure of the divergence monitor."""

import math

import pytest

from app.core.spec.reports import Report, TrainerExit
from worker.training.divergence import GAP_ALARM, GIVE_UP_AFTER, DivergenceMonitor
from worker.training.types import JobFailure


def values(gap: float | None = 0.0, norm: float = 1.0) -> dict[str, float | None]:
    name = "sampling/sampling_logp_difference"
    return {f"{name}/mean": gap, f"{name}/max": gap, "grad_norm": norm}


def test_sampling_gap_warns_once() -> None:
    reports: list[Report] = []
    monitor = DivergenceMonitor(reports.append)
    for step, gap in enumerate([0.0, None, GAP_ALARM, 0.3, 0.4], start=1):
        monitor.note(step, values(gap))
    [message] = reports
    assert message.kind == "message"
    assert message.level == "warn"
    assert message.message.startswith("Step 4: the log-probabilities of sampler and trainer differ by 0.3 nats")


def test_non_finite_steps_warn_and_then_fail() -> None:
    reports: list[Report] = []
    monitor = DivergenceMonitor(reports.append)
    for step in range(1, GIVE_UP_AFTER):
        monitor.note(step, values(norm=math.nan))
    monitor.note(GIVE_UP_AFTER, values())
    for step in range(GIVE_UP_AFTER - 1):
        monitor.note(step, values(norm=math.inf))
    assert len(reports) == 2 * (GIVE_UP_AFTER - 1)
    with pytest.raises(JobFailure, match="Lower hyperparameters") as caught:
        monitor.note(99, values(norm=math.nan))
    assert caught.value.exit_code == TrainerExit.diverged
