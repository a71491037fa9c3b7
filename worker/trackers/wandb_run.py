"""Weights & Biases. Key and server are in the worker's environment: WANDB_API_KEY, WANDB_BASE_URL, WANDB_MODE."""

import os
from collections.abc import Mapping

import wandb

from worker.trackers.protocol import TrackerRun, TrackerRunSpec


class WandbRun:
    """A run that a resumed attempt goes on with."""

    def __init__(self, wanted: TrackerRunSpec) -> None:
        named = wanted.settings["wandb"]
        self._run = wandb.init(
            project=named["project"],
            name=named.get("name") or wanted.job_id,
            entity=named.get("entity"),
            tags=list(named.get("tags", ())),
            id=wanted.job_id,
            resume="allow",
            config=wanted.config,
            dir=os.environ.get("WANDB_DIR", wanted.directory),
            # Nothing of the machine: the run is the job's.
            settings=wandb.Settings(
                console="off", silent=True, disable_git=True, save_code=False, x_disable_stats=True, x_disable_meta=True
            ),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def end(self, outcome: str) -> None:
        self._run.summary["outcome"] = outcome
        self._run.finish(exit_code=1 if outcome == "failed" else 0)


def begin(wanted: TrackerRunSpec) -> TrackerRun:
    """Opens or resumes the run."""
    return WandbRun(wanted)
