"""Trackio. Where it keeps runs is in the worker's environment: TRACKIO_DIR, TRACKIO_SPACE_ID, TRACKIO_SERVER_URL."""

from collections.abc import Mapping

import trackio

from worker.trackers.protocol import TrackerRun, TrackerRunSpec


class TrackioRun:
    """A run that a resumed attempt goes on with."""

    def __init__(self, wanted: TrackerRunSpec) -> None:
        named = wanted.settings["trackio"]
        self._run = trackio.init(
            project=named["project"],
            name=named.get("name") or wanted.job_id,
            config=wanted.config,
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def end(self, outcome: str) -> None:
        self._run.finish()


def begin(wanted: TrackerRunSpec) -> TrackerRun:
    """Opens or resumes the run."""
    return TrackioRun(wanted)
