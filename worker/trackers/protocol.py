"""What a tracker's process is told, and what each tracker can do."""

from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict


class TrackerRunSpec(BaseModel):
    """A run at a tracker."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    """Also the run's id: an attempt that resumes goes on in the run of the one before."""
    project_id: str
    settings: dict[str, Any]
    """The integration, as in the job."""
    config: dict[str, Any]
    """The job's spec."""
    directory: str
    """For files of its own, gone after the attempt."""
    tensorboard_dir: str


class TrackerLine(BaseModel):
    """One line of standard input: values of a step, or how the attempt ended."""

    step: int = 0
    values: dict[str, float] = {}
    outcome: str | None = None


class TrackerRun(Protocol):
    """An open run. Whatever it raises ends its process and is told in the job's events."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Finite values of a step; steps that were logged before may come again after a resume."""

    def end(self, outcome: str) -> None:
        """The attempt ended so (`succeeded`, `failed`, `paused` ...); returns once all is sent."""
