"""TensorBoard's event files, in `GROUPTUNE_TENSORBOARD_DIR/<project>/<job>`; written without TensorFlow or torch."""

from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from worker.trackers.protocol import TrackerRun, TrackerRunSpec


class TensorboardRun:
    """A new event file for each attempt, in the job's directory."""

    def __init__(self, wanted: TrackerRunSpec) -> None:
        self._directory = str(Path(wanted.tensorboard_dir) / wanted.project_id / wanted.job_id)
        self._writer: SummaryWriter | None = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self._writer is None:
            # What an earlier attempt wrote from this step on is shown no more.
            self._writer = SummaryWriter(self._directory, purge_step=step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def end(self, outcome: str) -> None:
        if self._writer is not None:
            self._writer.close()


def begin(wanted: TrackerRunSpec) -> TrackerRun:
    """Begins an event file with the first values."""
    return TensorboardRun(wanted)
