"""A full disk delays a job but does not count as a crash and loses nothing that was stored."""

from dataclasses import replace
from pathlib import Path

import pytest

from app.core.jobs import queries
from app.core.jobs.state_machine import AttemptOutcome, JobStatus
from app.core.jobs.tables import Job
from app.core.storage.local import LocalBlobStore
from tests.setup_jobs import make_job, stored_file, supervised
from tests.small_disk import fill, small_disk
from tests.worker.conftest import Bench
from tests.worker.test_kills import real, submit

STEPS = 100


def outcomes(bench: Bench) -> list[str | None]:
    with bench.database.transaction() as session:
        return [attempt.outcome for attempt in queries.list_attempts(session, bench.job_id)]


@pytest.mark.usefixtures("real_trainers")
def test_full_run_directory_requeues_the_job(bench: Bench, tiny_models: Path, tmp_path: Path) -> None:
    """The reason names the full disk, and the job resumes once there is space."""
    bench.run("train:1")
    job = submit(real(bench, tiny_models), tmp_path, STEPS)
    with small_disk(job.settings.runs_dir / job.job_id, kibibytes=128):
        job.runner("").run()
        assert (job.status(), job.job().crashes) == (JobStatus.queued, 0)
        assert outcomes(job) == [AttemptOutcome.dependency_down]
        with job.database.transaction() as session:
            [attempt] = queries.list_attempts(session, job.job_id)
            stored_steps = [row.step for row in queries.latest_checkpoints(session, job.job_id)]
        assert "disk" in (attempt.reason or "")
        assert "full" in (attempt.reason or "")
    job.runner("").run()
    assert job.status() is JobStatus.succeeded, job.job().error
    with job.database.transaction() as session:
        assert queries.list_attempts(session, job.job_id)[1].resumed_from_step == max(stored_steps, default=0)
        assert [metric.step for metric in queries.list_metrics(session, job.job_id)] == list(range(1, STEPS + 1))


def test_full_store_keeps_its_checkpoints(bench: Bench, tmp_path: Path) -> None:
    """The job publishes its model once there is space again."""
    with small_disk(tmp_path / "small", kibibytes=64) as disk:
        store = LocalBlobStore(disk)
        with bench.database.transaction() as session:
            file = stored_file(session, store, bench.project, tmp_path)
            job = replace(bench, store=store, job_id=make_job(session, bench.project, supervised(), file).id)
            session.get_one(Job, bench.job_id).priority = -1
        job.run("crash:4")
        with job.database.transaction() as session:
            [before] = queries.latest_checkpoints(session, job.job_id)
        ballast = fill(disk)
        job.run("train:8")
        assert (job.status(), outcomes(job)[-1]) == (JobStatus.queued, AttemptOutcome.dependency_down)
        with job.database.transaction() as session:
            [after] = queries.latest_checkpoints(session, job.job_id)
        assert (after.step, after.blob) == (before.step, before.blob)
        ballast.unlink()
        assert job.run("train:8").status == JobStatus.succeeded
        with job.database.transaction() as session:
            assert queries.list_attempts(session, job.job_id)[-1].resumed_from_step == 2


def test_failed_write_leaves_no_partial_blob(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", kibibytes=32) as disk:
        store = LocalBlobStore(disk)
        with pytest.raises(OSError, match="No space left"):
            store.write("files/large", [bytes(1024)] * 64)
        assert not store.exists("files/large")
        assert [path for path in disk.rglob("*") if path.is_file()] == []
