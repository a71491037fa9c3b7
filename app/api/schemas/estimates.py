"""Estimates on the wire."""

from typing import Literal

from pydantic import BaseModel, Field

from app.core.estimates.estimate import Estimate, Range
from app.core.estimates.worker_fit import Forecast, OnWorker, Verdict


class WorkerEstimate(BaseModel):
    """The job on one worker."""

    id: str
    device: str
    memory_bytes: int = Field(description="That one trainer process may fill.")
    verdict: Verdict
    seconds: Range | None
    peak_memory_bytes: Range | None

    @classmethod
    def of(cls, one: OnWorker) -> "WorkerEstimate":
        """The wire form."""
        return cls(
            id=one.name,
            device=one.hardware.device,
            memory_bytes=one.hardware.trainer_memory_bytes,
            verdict=one.verdict,
            seconds=one.estimate.seconds,
            peak_memory_bytes=one.estimate.peak_memory_bytes,
        )


class EstimateObject(Estimate):
    """What a job would take on the workers that there are, best on the first of them."""

    object: Literal["fine_tuning.estimate"] = "fine_tuning.estimate"
    verdict: Verdict = Field(description="`tight`: what is expected fits, the high end of the memory does not.")
    reason: str
    workers: list[WorkerEstimate]

    @classmethod
    def of(cls, made: Forecast) -> "EstimateObject":
        """The wire form."""
        return cls.model_validate(
            {
                **dict(made.estimate),
                "verdict": made.verdict,
                "reason": made.reason,
                "workers": [WorkerEstimate.of(one) for one in made.workers],
            }
        )
