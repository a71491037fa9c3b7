"""Trackio. The worker's environment says where runs are stored: TRACKIO_DIR, TRACKIO_SPACE_ID, TRACKIO_SERVER_URL."""

from collections.abc import Mapping

import trackio

from worker.trackers.protocol import TrackerRun, TrackerRunSpec


class TrackioRun:
    """A run that resumed attempts continue."""

    def __init__(self, spec: TrackerRunSpec) -> None:
        settings = spec.settings["trackio"]
        self._run = trackio.init(
            project=settings["project"],
            name=settings.get("name") or spec.job_id,
            config=spec.config,
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def end(self, outcome: str) -> None:
        self._run.finish()


def begin(spec: TrackerRunSpec) -> TrackerRun:
    """Open or resume the run."""
    return TrackioRun(spec)
