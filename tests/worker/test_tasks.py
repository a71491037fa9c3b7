"""Whole jobs through real Celery, Valkey, Postgres and the real trainer on a tiny model."""

from pathlib import Path

import redis

from app.core import broker
from app.core.accounts.audit import Actor
from app.core.files.tables import File, FileStatus
from app.core.jobs import groups, lifecycle, queries
from app.core.jobs.state_machine import AttemptOutcome, JobStatus
from tests.interpreter.sitecustomize import NAME
from tests.setup_jobs import make_file, supervised
from tests.tiny_model import write_rows
from tests.waiting import eventually
from tests.worker.celery_process import CeleryProcess
from tests.worker.conftest import Plant, last_sweeps


def upload(plant: Plant, text: str | None = None) -> str:
    """Create a file that is waiting for its validation."""
    path = write_rows(plant.directory / "upload.jsonl", 8)
    with plant.database.transaction() as session:
        file = make_file(session, plant.project, status=FileStatus.uploaded)
        stored = plant.store.write(file.blob, [text.encode() if text is not None else path.read_bytes()])
        file.bytes, file.sha256 = stored.bytes, stored.sha256
        return file.id


def create(plant: Plant, file_id: str, **hyperparameters: int) -> str:
    with plant.database.transaction() as session:
        return lifecycle.create(
            session,
            Actor(plant.project),
            spec=supervised(batch_size=2, **hyperparameters),
            training_file=file_id,
            validation_file=None,
        ).id


def outcomes(plant: Plant, job_id: str) -> list[str | None]:
    return [attempt.outcome for attempt in plant.attempts(job_id)]


def trainers(job_id: str) -> list[int]:
    """Return the ids of the live trainer processes of a job; of a forked one its own, not that of who waits for it."""
    pids = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and job_id.encode() in (entry / "cmdline").read_bytes():
                forked = (entry / "comm").read_text().strip().removeprefix(NAME)
                is_alive = forked.isdigit() and Path("/proc", forked).exists()
                pids.append(int(forked if is_alive else entry.name))
        except OSError:
            continue
    return pids


def test_repeated_notifications_train_once(plant: Plant) -> None:
    good = create(plant, upload(plant), max_steps=3)
    bad = create(plant, upload(plant, "no json\n"), max_steps=3)
    with plant.default_worker(), plant.train_worker("one"), plant.train_worker("two"):
        broker.notify_validation(plant.broker_url)
        failed = plant.wait_for(bad, JobStatus.failed)
        assert failed.error is not None
        assert "plain text" in failed.error["message"]
        for _ in range(10):
            broker.notify_training(plant.broker_url)
        job = plant.wait_for(good, JobStatus.succeeded)
    assert outcomes(plant, good) == [AttemptOutcome.succeeded]
    with plant.database.transaction() as session:
        file = session.get_one(File, job.training_file)
        assert (file.status, file.claimed_until) == (FileStatus.processed, None)
        assert (file.status_details or "").startswith("8 rows")
        assert [metric.step for metric in queries.list_metrics(session, good)] == [1, 2, 3]
        assert groups.steps(session, good) == [1, 2, 3]
        assert len(queries.latest_checkpoints(session, good)) == 2
    adapter = plant.store.list(f"jobs/{good}/a1/adapter")
    assert f"jobs/{good}/a1/adapter/adapter_model.safetensors" in adapter
    assert job.hyperparameters is not None
    assert job.hyperparameters["batch_size"] == 2
    assert (job.step, job.total_steps) == (3, 3)
    assert job.trained_tokens


def test_worker_with_another_store_takes_no_job(plant: Plant) -> None:
    """It would fail the whole queue within seconds, because no file of a job is there."""
    elsewhere = plant.environment | {"GROUPTUNE_STATE_DIR": str(plant.directory / "elsewhere")}
    words = ["-Q", "train", "-P", "threads", "-c", "1"]
    job_id = plant.submit(max_steps=1)
    with CeleryProcess("other", words, elsewhere, plant.directory):
        broker.notify_training(plant.broker_url)
        eventually(lambda: "worker.other_store" in (plant.directory / "other.log").read_text())
        assert plant.job(job_id).status == JobStatus.queued

        def reason() -> str | None:
            with plant.database.transaction() as session:
                return queries.job_details(session, plant.job(job_id)).waiting_for

        eventually(lambda: "cannot take jobs: None of the newest uploaded files is in its store" in (reason() or ""))
        with plant.train_worker("own") as own:
            plant.wait_for(job_id, JobStatus.succeeded)
            assert [attempt.worker.endswith(f":{own.pid}") for attempt in plant.attempts(job_id)] == [True]


def test_killed_worker_is_replaced(plant: Plant) -> None:
    """Its trainer dies with it, and another worker takes over its job and all sweeps."""
    job_id = plant.submit(rows=400, n_epochs=50, checkpoint_interval=10)  # longer than any test
    with plant.train_worker("one") as worker_1:
        eventually(lambda: plant.checkpoints(job_id))
        owner = str(plant.job(job_id).lease_owner)
        with plant.train_worker("two") as worker_2:
            worker_1.kill()
            assert not trainers(job_id)
            reached = plant.job(job_id).step
            plant.wait_for_step(job_id, reached + 1)
            sweeper = str(worker_2.pid)
            eventually(lambda: last_sweeps(plant.database)["jobs"].endswith(f":{sweeper}"))
    first, second = plant.attempts(job_id)
    assert (first.worker, first.outcome) == (owner, AttemptOutcome.lost_lease)
    assert second.worker != owner
    assert 0 < second.resumed_from_step <= reached
    with plant.database.transaction() as session:
        steps = [metric.step for metric in queries.list_metrics(session, job_id)]
    assert steps == list(range(1, plant.job(job_id).step + 1))


def test_lost_message_and_drain(plant: Plant) -> None:
    """A sweep replaces a lost message; a drain loses no step."""
    with plant.default_worker(), plant.train_worker() as worker:
        job_id = plant.submit(rows=400, n_epochs=50, checkpoint_interval=1000)
        broker.notify_training(plant.broker_url)
        with redis.Redis(unix_socket_path=plant.broker_url.removeprefix("redis+socket://")) as client:
            client.flushall()
        plant.wait_for_step(job_id, 5)
        assert worker.drain() == 0
    job = plant.job(job_id)
    assert (job.status, job.crashes) == (JobStatus.queued, 0)
    assert outcomes(plant, job_id) == [AttemptOutcome.drained]
    with plant.database.transaction() as session:
        assert queries.latest_checkpoints(session, job_id)[0].step == job.step
        assert [m.step for m in queries.list_metrics(session, job_id)] == list(range(1, job.step + 1))
    assert not trainers(job_id)
