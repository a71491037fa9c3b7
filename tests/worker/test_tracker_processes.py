"""Each tracker gets a job's metrics through its own library; no tracker can fail, delay or outlive the job."""

import json
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs
from tensorboardX.proto.event_pb2 import Event

from app.core.jobs import leases, queries
from app.core.jobs.leases import Claim
from app.core.jobs.state_machine import JobStatus
from app.core.spec.reports import Metrics
from tests.http_server import Received, Reply, http_server
from tests.processes import descendants
from tests.waiting import eventually
from tests.worker.conftest import Bench
from worker.tracker_processes import TrackerProcesses

WANDB = {"type": "wandb", "wandb": {"project": "arithmetic", "tags": ["ci"]}}
MLFLOW = {"type": "mlflow", "mlflow": {"experiment": "arithmetic"}}
TENSORBOARD = {"type": "tensorboard"}
TRACKIO = {"type": "trackio", "trackio": {"project": "arithmetic"}}

Tracked = Callable[..., Bench]


@pytest.fixture
def tracked(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracked:
    """Return a function that gives the bench's job trackers; all trackers of its worker write below `tmp_path`."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")

    def configure(*integrations: dict[str, Any], allowed: tuple[str, ...] = (), **spec: Any) -> Bench:
        with bench.database.transaction() as session:
            changed = json.dumps({"integrations": integrations} | spec)
            session.execute(text("UPDATE jobs SET spec = spec || CAST(:changed AS jsonb)"), {"changed": changed})
        names = allowed or tuple(str(integration["type"]) for integration in integrations)
        settings = {"trackers": names, "tensorboard_dir": tmp_path / "tensorboard"}
        return replace(bench, settings=bench.settings.model_copy(update=settings))

    return configure


# MLflow's own code, on Python 3.14.
READS_MLFLOW = pytest.mark.filterwarnings("ignore:codecs.open:DeprecationWarning")


def mlflow_client() -> Any:
    from mlflow import MlflowClient  # noqa: PLC0415 - slow imports, for two tests

    return MlflowClient()


def warnings(bench: Bench) -> list[str]:
    with bench.database.transaction() as session:
        events, _ = queries.list_events(session, bench.job_id, after=None, limit=100)
    return [event.message for event in events if event.level == "warn"]


def scalars(directory: Path) -> Iterator[tuple[str, int, float]]:
    """Read TensorBoard's event files; a record is a length, its checksum, the data and their checksum."""
    for path in sorted(directory.rglob("events.out.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                yield value.tag, event.step, value.simple_value


def children() -> list[psutil.Process]:
    return descendants("worker.trackers")


@READS_MLFLOW
def test_trackers_get_every_finite_value(tracked: Tracked, tmp_path: Path) -> None:
    bench = tracked(WANDB, MLFLOW, TENSORBOARD, TRACKIO)
    assert bench.run("train:4").status == JobStatus.succeeded
    assert warnings(bench) == []
    steps = {1: 1.0, 2: 1 / 2, 3: 1 / 3, 4: 1 / 4}

    client = mlflow_client()
    experiment = client.get_experiment_by_name("arithmetic")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert {metric.step: metric.value for metric in history} == steps
    assert (run.info.status, run.data.tags["grouptune.job"]) == ("FINISHED", bench.job_id)
    assert run.data.params["model"] == "tiny"
    assert set(run.data.metrics) == {"loss"}, "a reward that is not finite is left out"

    written = list(scalars(tmp_path / "tensorboard" / bench.project / bench.job_id))
    assert [(tag, step) for tag, step, _ in written] == [("loss", step) for step in steps]
    assert [value for *_, value in written] == pytest.approx(list(steps.values()))

    [offline] = tmp_path.glob("wandb/offline-run-*")
    assert offline.name.endswith(bench.job_id)
    assert b"loss" in next(offline.glob("*.wandb")).read_bytes()

    with closing(sqlite3.connect(tmp_path / "trackio" / "arithmetic.db")) as database:
        rows = database.execute("SELECT step, metrics FROM metrics ORDER BY step").fetchall()
    assert {step: json.loads(metrics)["loss"] for step, metrics in rows} == pytest.approx(steps)
    assert children() == []


@READS_MLFLOW
def test_resumed_attempt_continues_the_run(tracked: Tracked, tmp_path: Path) -> None:
    bench = tracked(MLFLOW, TENSORBOARD)
    bench.run("crash:3")
    client = mlflow_client()
    experiment = client.get_experiment_by_name("arithmetic")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.tags["grouptune.outcome"]) == ("RUNNING", "crashed")
    bench.run("train:4")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert {metric.step for metric in client.get_metric_history(run.info.run_id, "loss")} == {1, 2, 3, 4}
    assert {step for _, step, _ in scalars(tmp_path / "tensorboard")} == {1, 2, 3, 4}


def test_rejected_metrics_warn_once(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with http_server(lambda request: Reply(b'{"error_code": "PERMISSION_DENIED", "message": "no"}', 403)) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        bench = tracked(MLFLOW, TENSORBOARD)
        thread = bench.start("until_stopped")
        eventually(lambda: warnings(bench))
        bench.drain.begin()
        thread.join(60)
    assert bench.job().step > 0
    [warning] = warnings(bench)
    assert warning.startswith("The tracker mlflow failed and receives no further metrics; the job continues. ")
    assert "PERMISSION_DENIED" in warning


def claimed(bench: Bench) -> Claim:
    with bench.database.transaction() as session:
        claim = leases.claim(session, "test", 60)
    assert claim is not None
    return claim


def test_hanging_tracker_drops_lines_and_is_killed(
    tracked: Tracked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested, closed = threading.Event(), threading.Event()
    complaints: list[str] = []

    def hang(_request: Received) -> Reply:
        requested.set()
        closed.wait(60)
        return Reply()

    values: dict[str, float | None] = {f"loss/{number}": 1.0 for number in range(10_000)}  # more than a pipe holds
    with http_server(hang) as address, capture_logs() as logs:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        bench = tracked(MLFLOW)
        options: dict[str, Any] = {"spooled": 2, "grace_seconds": 0.2}
        trackers = TrackerProcesses(claimed(bench), bench.settings, tmp_path, complaints.append, **options)
        trackers.offer(Metrics(step=1, values={"loss": 1.0}))
        assert requested.wait(240), "the tracker sent no request"
        assert children()
        for step in range(2, 12):
            trackers.offer(Metrics(step=step, values=values))
        trackers.close("succeeded")
        eventually(lambda: not children())  # killed without waiting for its exit
        closed.set()
    assert complaints == []
    [dropped] = [entry["lines"] for entry in logs if entry["event"] == "tracker.dropped"]
    assert dropped >= 10 - 3  # one line is in the pipe and two are queued


def test_removed_tracker_warns(tracked: Tracked) -> None:
    bench = tracked(WANDB, TENSORBOARD, allowed=("tensorboard",))
    assert bench.run("train:2").status == JobStatus.succeeded
    [warning] = warnings(bench)
    assert warning == "The tracker wandb is not set up on this worker (GROUPTUNE_TRACKERS); the job continues."


def test_unstartable_tracker_warns(tracked: Tracked, tmp_path: Path) -> None:
    bench = tracked(TENSORBOARD)
    complaints: list[str] = []
    trackers = TrackerProcesses(claimed(bench), bench.settings, tmp_path, complaints.append, python="/nowhere/python")
    trackers.offer(Metrics(step=1, values={"loss": 1.0}))
    trackers.close("succeeded")
    [warning] = complaints
    assert warning.startswith("The tracker tensorboard could not be started; the job continues. ")
    assert "/nowhere/python" in warning


def test_long_spec_reaches_the_trackers(tracked: Tracked, tmp_path: Path) -> None:
    """Linux limits one argument of a command to 128 KiB, but a grader may have 256 kB."""
    source = "def grade(sample, item):\n    return 1.0\n" + "# a word about it\n" * 10_000
    bench = tracked(TENSORBOARD, method="gft", settings={"grader": {"type": "python", "source": source}})
    assert bench.run("train:2").status == JobStatus.succeeded
    assert warnings(bench) == []
    assert {step for _, step, _ in scalars(tmp_path / "tensorboard")} == {1, 2}


def test_tracker_and_trainer_secrets_are_separate(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "canary")
    monkeypatch.setenv("DATABASE_URL", "canary")
    bench = tracked(TENSORBOARD)
    thread = bench.start("until_stopped")
    [tracker] = children()
    assert "DATABASE_URL" not in tracker.environ()
    assert tracker.environ()["WANDB_API_KEY"] == "canary"
    [trainer] = descendants("protocol_trainer")
    assert not {"DATABASE_URL", "WANDB_API_KEY"} & trainer.environ().keys()
    bench.drain.begin()
    thread.join(60)
    assert children() == []
