"""MLflow. The server comes from the worker's environment: MLFLOW_TRACKING_URI and its credentials."""

import re
import time
from collections.abc import Mapping
from typing import Final

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from worker.trackers.protocol import TrackerRun, TrackerRunSpec

JOB_TAG: Final = "grouptune.job"
STATUS: Final = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
"""Outcome of an attempt -> status of the run; every other attempt is followed by another one."""
_FORBIDDEN: Final = re.compile(r"[^\w\-. :/]")
MAX_PARAM: Final = 500


class MlflowRun:
    """The run with the job's tag."""

    def __init__(self, wanted: TrackerRunSpec) -> None:
        named = wanted.settings["mlflow"]
        self._client = MlflowClient()
        experiment = _experiment(self._client, named["experiment"])
        found = self._client.search_runs([experiment], f"tags.`{JOB_TAG}` = '{wanted.job_id}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._client.set_terminated(self._id, "RUNNING")
            return
        tags = {JOB_TAG: wanted.job_id, "grouptune.project": wanted.project_id}
        run = self._client.create_run(experiment, run_name=named.get("run_name") or wanted.job_id, tags=tags)
        self._id = run.info.run_id
        params = [Param(name, str(value)[:MAX_PARAM]) for name, value in _flat(wanted.config)]
        self._client.log_batch(self._id, params=params[:100])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        # MLflow takes no `@`, as in eval/pass@4.
        metrics = [Metric(_FORBIDDEN.sub("_", name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def end(self, outcome: str) -> None:
        self._client.set_tag(self._id, "grouptune.outcome", outcome)
        if outcome in STATUS:
            self._client.set_terminated(self._id, STATUS[outcome])


def begin(wanted: TrackerRunSpec) -> TrackerRun:
    """Opens or resumes the run."""
    return MlflowRun(wanted)


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:  # another job was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _flat(config: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    for name, value in config.items():
        pairs += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)]
    return pairs
