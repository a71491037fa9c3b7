"""TensorBoard's event files, in `GROUPTUNE_TENSORBOARD_DIR/<project>/<job>`; written without TensorFlow or torch."""

from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from worker.trackers.protocol import TrackerRun, TrackerRunSpec


class TensorboardRun:
    """A new event file for each attempt, in the job's directory."""

    def __init__(self, spec: TrackerRunSpec) -> None:
        self._directory = str(Path(spec.tensorboard_dir) / spec.project_id / spec.job_id)
        self._writer: SummaryWriter | None = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self._writer is None:
            # Hides the values that an earlier attempt wrote from this step on.
            self._writer = SummaryWriter(self._directory, purge_step=step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def end(self, outcome: str) -> None:
        if self._writer is not None:
            self._writer.close()


def begin(spec: TrackerRunSpec) -> TrackerRun:
    """Open the run; its event file begins with the first values."""
    return TensorboardRun(spec)
