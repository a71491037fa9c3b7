"""Which of the workers a job fits on, and what it will take there."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.core.estimates import cost
from app.core.estimates.calibration import Observation
from app.core.estimates.estimate import Asked, Estimate, Range, estimate
from app.core.spec.hardware import Hardware


class Verdict(StrEnum):
    """Whether a job's memory is there."""

    fits = "fits"
    tight = "tight"
    """It may be too much at once, but not with smaller micro-batches, which the trainer then makes: slower."""
    does_not_fit = "does_not_fit"
    no_worker = "no_worker"


@dataclass(frozen=True)
class OnWorker:
    """A worker, and the job on it."""

    name: str
    hardware: Hardware
    estimate: Estimate
    verdict: Verdict


@dataclass(frozen=True)
class Forecast:
    """A job on the workers that there are."""

    estimate: Estimate
    """On the one that it fits best on, the fastest of several."""
    verdict: Verdict
    reason: str
    workers: tuple[OnWorker, ...]
    """The best one first."""


def forecast(asked: Asked, workers: Sequence[tuple[str, Hardware]], observations: Sequence[Observation]) -> Forecast:
    """What the job will take on each of the named workers."""
    found = []
    for name, hardware in workers:
        there = estimate(asked, hardware, observations)
        found.append(OnWorker(name, hardware, there, _judge(there, hardware)))
    if not found:
        reason = "No worker takes training jobs now: start one, and the job waits for it."
        return Forecast(estimate(asked, None, observations), Verdict.no_worker, reason, ())
    order = list(Verdict)
    found.sort(key=lambda one: (order.index(one.verdict), one.estimate.seconds.expected if one.estimate.seconds else 0))
    best = found[0]
    if best.verdict is Verdict.does_not_fit:
        best = max(found, key=lambda one: one.hardware.trainer_memory_bytes)
    return Forecast(best.estimate, best.verdict, _reason(best), tuple(found))


def _judge(there: Estimate, hardware: Hardware) -> Verdict:
    room = hardware.trainer_memory_bytes - cost.reserved_bytes(hardware)
    whole, least = _memory(there)
    if whole.high <= room:
        return Verdict.fits
    return Verdict.tight if least.expected <= room else Verdict.does_not_fit


def _memory(there: Estimate) -> tuple[Range, Range]:
    if there.peak_memory_bytes is None or there.least_memory_bytes is None:
        raise ValueError("an estimate for a device has its memory")
    return there.peak_memory_bytes, there.least_memory_bytes


def _reason(one: OnWorker) -> str:
    whole, least = _memory(one.estimate)
    where = f"{_gb(one.hardware.trainer_memory_bytes)} of {one.hardware.device} (worker {one.name})"
    match one.verdict:
        case Verdict.fits:
            return f"It takes {_spread(whole)} of the {where}."
        case Verdict.tight:
            return f"It wants {_spread(whole)} of the {where}, and gets by, slower, on {_spread(least)}."
    return (
        f"It takes at least {_spread(least)}, and no worker has more than the {where}: use base_precision '4bit', a "
        "smaller model, lora.r, group.self, sampling.max_tokens or max_length, or a worker with more memory."
    )


def _spread(memory: Range) -> str:
    return f"{_gb(memory.expected)} ({_gb(memory.low)} to {_gb(memory.high)})"


def _gb(count: float) -> str:
    return f"{count / 1e9:.3g} GB"
