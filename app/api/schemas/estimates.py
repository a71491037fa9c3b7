"""Bodies of `/v1/fine_tuning/estimate`."""

from typing import Literal

from pydantic import BaseModel, Field

from app.core.estimates.estimate import Estimate, Range
from app.core.estimates.worker_fit import Forecast, MemoryFit, OnWorker


class WorkerEstimate(BaseModel):
    """The estimate of a job on one worker."""

    id: str
    device: str
    memory_bytes: int = Field(description="The memory that one trainer process may use.")
    verdict: MemoryFit
    seconds: Range | None
    peak_memory_bytes: Range | None

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


class EstimateObject(Estimate):
    """The estimate of a job on the available workers; the best worker comes first."""

    object: Literal["fine_tuning.estimate"] = "fine_tuning.estimate"
    verdict: MemoryFit = Field(description="`tight`: the expected memory fits, the upper end of its range does not.")
    reason: str
    workers: list[WorkerEstimate]

    @classmethod
    def of(cls, forecast: Forecast) -> "EstimateObject":
        """Return the wire form."""
        return cls.model_validate(
            {
                **dict(forecast.estimate),
                "verdict": forecast.verdict,
                "reason": forecast.reason,
                "workers": [WorkerEstimate.of(item) for item in forecast.workers],
            }
        )
