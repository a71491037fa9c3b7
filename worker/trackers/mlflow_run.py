"""MLflow. The worker's environment names the server: MLFLOW_TRACKING_URI and its credentials."""

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
"""Outcome of an attempt -> final status of the run. Other outcomes leave the run open: another attempt follows."""
_FORBIDDEN: Final = re.compile(r"[^\w\-. :/]")
MAX_PARAM: Final = 500


class MlflowRun:
    """The MLflow run with the job's tag."""

    def __init__(self, spec: TrackerRunSpec) -> None:
        settings = spec.settings["mlflow"]
        self._client = MlflowClient()
        experiment = _experiment(self._client, settings["experiment"])
        found = self._client.search_runs([experiment], f"tags.`{JOB_TAG}` = '{spec.job_id}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._client.set_terminated(self._id, "RUNNING")
            return
        tags = {JOB_TAG: spec.job_id, "grouptune.project": spec.project_id}
        run = self._client.create_run(experiment, run_name=settings.get("run_name") or spec.job_id, tags=tags)
        self._id = run.info.run_id
        params = [Param(name, str(value)[:MAX_PARAM]) for name, value in _flat(spec.config)]
        self._client.log_batch(self._id, params=params[:100])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        # MLflow does not accept `@`, as in eval/pass@4.
        metrics = [Metric(_FORBIDDEN.sub("_", name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def end(self, outcome: str) -> None:
        self._client.set_tag(self._id, "grouptune.outcome", outcome)
        if outcome in STATUS:
            self._client.set_terminated(self._id, STATUS[outcome])


def begin(spec: TrackerRunSpec) -> TrackerRun:
    """Open or resume the run."""
    return MlflowRun(spec)


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:  # another job created it first
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _flat(config: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = []
    for name, value in config.items():
        pairs += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)]
    return pairs
