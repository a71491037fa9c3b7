"""Messages to a tracker process, and the interface of each tracker."""

from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict


class TrackerRunSpec(BaseModel):
    """The run that a tracker process opens."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    """Also the run's id: an attempt that resumes continues the run of the previous attempt."""
    project_id: str
    settings: dict[str, Any]
    """The integration, as in the job."""
    config: dict[str, Any]
    """The job's spec."""
    directory: str
    """For the tracker's own files; removed after the attempt."""
    tensorboard_dir: str


class TrackerLine(BaseModel):
    """One line of standard input: the values of a step, or the outcome of the attempt."""

    step: int = 0
    values: dict[str, float] = {}
    outcome: str | None = None


class TrackerRun(Protocol):
    """An open run. An exception ends the tracker process and is reported in the job's events."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log finite values of a step; after a resume, steps that were logged before may come again."""

    def end(self, outcome: str) -> None:
        """End the run with the attempt's outcome (`succeeded`, `failed`, `paused` ...); return once all is sent."""
