"""Weights & Biases. The worker's environment holds key and server: WANDB_API_KEY, WANDB_BASE_URL, WANDB_MODE."""

import os
from collections.abc import Mapping

import wandb

from worker.trackers.protocol import TrackerRun, TrackerRunSpec


class WandbRun:
    """A run that resumed attempts continue."""

    def __init__(self, spec: TrackerRunSpec) -> None:
        settings = spec.settings["wandb"]
        self._run = wandb.init(
            project=settings["project"],
            name=settings.get("name") or spec.job_id,
            entity=settings.get("entity"),
            tags=list(settings.get("tags", ())),
            id=spec.job_id,
            resume="allow",
            config=spec.config,
            dir=os.environ.get("WANDB_DIR", spec.directory),
            # No data about the machine: the run describes the job.
            settings=wandb.Settings(
                console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True, x_disable_meta=True
            ),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def end(self, outcome: str) -> None:
        self._run.summary["outcome"] = outcome
        self._run.finish(exit_code=1 if outcome == "failed" else 0)


def begin(spec: TrackerRunSpec) -> TrackerRun:
    """Open or resume the run."""
    return WandbRun(spec)
