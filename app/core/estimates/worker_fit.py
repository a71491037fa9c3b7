"""Selects the workers that can run a job, and estimates the job there."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.core.estimates import cost
from app.core.estimates.calibration import Observation
from app.core.estimates.estimate import Estimate, PlannedJob, Range, estimate
from app.core.spec.hardware import Hardware


class MemoryFit(StrEnum):
    """Whether the job's memory fits."""

    fits = "fits"
    tight = "tight"
    """Fits only with smaller micro-batches, to which the trainer switches; slower. With a sharded base: may not fit."""
    does_not_fit = "does_not_fit"
    no_worker = "no_worker"


@dataclass(frozen=True)
class OnWorker:
    """A worker, and the estimate of the job on it."""

    name: str
    hardware: Hardware
    estimate: Estimate
    verdict: MemoryFit


@dataclass(frozen=True)
class Forecast:
    """A job on the available workers."""

    estimate: Estimate
    """The estimate on the best worker: the best fit, then the fastest."""
    verdict: MemoryFit
    reason: str
    workers: tuple[OnWorker, ...]
    """Best worker first."""


def forecast(job: PlannedJob, workers: Sequence[tuple[str, Hardware]], observations: Sequence[Observation]) -> Forecast:
    """Estimate the job on each of the named workers."""
    candidates = []
    for name, hardware in workers:
        expected = estimate(job, hardware, observations)
        candidates.append(OnWorker(name, hardware, expected, _judge(expected, hardware)))
    if not candidates:
        reason = "No worker accepts training jobs at the moment. The job will wait in the queue; start a worker."
        return Forecast(estimate(job, None, observations), MemoryFit.no_worker, reason, ())
    order = list(MemoryFit)
    candidates.sort(
        key=lambda worker: (
            order.index(worker.verdict),
            worker.estimate.seconds.expected if worker.estimate.seconds else 0,
        )
    )
    best = candidates[0]
    if best.verdict is MemoryFit.does_not_fit:
        best = max(candidates, key=lambda worker: worker.hardware.trainer_memory_bytes)
    return Forecast(best.estimate, best.verdict, _reason(best), tuple(candidates))


def _judge(estimate: Estimate, hardware: Hardware) -> MemoryFit:
    room = hardware.trainer_memory_bytes - cost.reserved_bytes(hardware)
    whole, least = _memory(estimate)
    if whole.high <= room:
        return MemoryFit.fits
    return MemoryFit.tight if least.expected <= room else MemoryFit.does_not_fit


def _memory(estimate: Estimate) -> tuple[Range, Range]:
    if estimate.peak_memory_bytes is None or estimate.least_memory_bytes is None:
        raise ValueError("an estimate for a device must include its memory")
    return estimate.peak_memory_bytes, estimate.least_memory_bytes


def _reason(worker: OnWorker) -> str:
    whole, least = _memory(worker.estimate)
    where = f"{_gb(worker.hardware.trainer_memory_bytes)} of {worker.hardware.device} (worker {worker.name})"
    match worker.verdict:
        case MemoryFit.fits:
            return f"The job needs {_spread(whole)} of the {where}."
        case MemoryFit.tight if least == whole:
            return (
                f"The job needs {_spread(whole)} of the {where}, and may run out of it: with a sharded base model, "
                "micro-batches do not shrink. Use more processes or a lower max_length to be safe."
            )
        case MemoryFit.tight:
            return f"The job needs {_spread(whole)} of the {where}. It also runs, more slowly, in {_spread(least)}."
    return (
        f"The job needs at least {_spread(least)}, and no worker has more than the {where}. Use base_precision '4bit', "
        "a smaller model, lora.r, group.self, sampling.max_tokens or max_length, or a worker with more memory."
    )


def _spread(memory: Range) -> str:
    return f"{_gb(memory.expected)} ({_gb(memory.low)} to {_gb(memory.high)})"


def _gb(count: float) -> str:
    return f"{count / 1e9:.3g} GB"
