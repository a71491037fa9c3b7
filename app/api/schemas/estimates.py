"""Bodies of `/v1/fine_tuning/estimate`."""

from typing import Literal

from pydantic import Field

from app.core.estimates.estimate import Estimate, Range
from app.core.estimates.worker_fit import Forecast, MemoryFit, OnWorker
from app.core.spec.described import Described
from app.core.spec.job import MethodType


class WorkerEstimate(Described):
    """The estimate of a job on one worker."""

    id: str
    """Name of the worker."""
    device: str
    """The worker's hardware."""
    memory_bytes: int = Field(description="The memory that one trainer process may use.")
    verdict: MemoryFit
    """Whether the job's memory fits."""
    seconds: Range | None
    """From the worker's claim to the end."""
    peak_memory_bytes: Range | None
    """Memory of one trainer process."""

    @classmethod
    def of(cls, item: OnWorker) -> "WorkerEstimate":
        """Return the wire form."""
        return cls(
            id=item.name,
            device=item.hardware.device,
            memory_bytes=item.hardware.trainer_memory_bytes,
            verdict=item.verdict,
            seconds=item.estimate.seconds,
            peak_memory_bytes=item.estimate.peak_memory_bytes,
        )


class ControlEstimate(Described):
    """The estimate of a job's control, which trains before the job."""

    method: MethodType
    """The method of the control."""
    steps: int
    """Number of optimiser steps, that of the job."""
    seconds: Range | None
    """From the best worker's claim to the end, in addition to the job's; null without a worker."""

    @classmethod
    def of(cls, method: MethodType, forecast: Forecast) -> "ControlEstimate":
        """Return the wire form."""
        return cls(method=method, steps=forecast.estimate.steps, seconds=forecast.estimate.seconds)


class EstimateObject(Estimate):
    """The estimate of a job on the available workers; the best worker comes first."""

    object: Literal["fine_tuning.estimate"] = "fine_tuning.estimate"
    verdict: MemoryFit = Field(description="`tight`: the expected memory fits, the upper end of its range does not.")
    reason: str
    """Explains the verdict in one sentence."""
    workers: list[WorkerEstimate]
    """The estimate for each training worker; the best one comes first."""
    control: ControlEstimate | None = Field(
        default=None, description="The control, whose time comes on top: `seconds` is that of the job alone."
    )

    @classmethod
    def of(cls, forecast: Forecast, control: ControlEstimate | None = None) -> "EstimateObject":
        """Return the wire form of the forecast of a job, with the estimate of its control."""
        return cls.model_validate(
            {
                **dict(forecast.estimate),
                "verdict": forecast.verdict,
                "reason": forecast.reason,
                "workers": [WorkerEstimate.of(item) for item in forecast.workers],
                "control": control,
            }
        )
