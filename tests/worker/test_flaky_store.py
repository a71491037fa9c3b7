"""An object store that is down, or fails at random, delays a job but does not count as a crash."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from app.core.jobs import queries
from app.core.jobs.state_machine import AttemptOutcome, JobStatus
from app.core.jobs.tables import Job
from app.core.models.tables import TrainedModel
from app.core.storage.opening import open_store
from tests.s3_server import BUCKET, CREDENTIALS, FlakyS3, flaky_s3_server
from tests.setup_jobs import make_job, stored_file
from tests.waiting import eventually
from tests.worker.conftest import Bench


@pytest.fixture
def flaky() -> Iterator[FlakyS3]:
    with flaky_s3_server() as server:
        yield server


@pytest.fixture
def job(bench: Bench, flaky: FlakyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A queued job whose blobs are in the flaky store."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    store = open_store(tmp_path, f"s3://{BUCKET}/{tmp_path.name}", flaky.address, "us-east-1")
    with bench.database.transaction() as session:
        session.get_one(Job, bench.job_id).priority = -1
        file = stored_file(session, store, bench.project, tmp_path)
        job_id = make_job(session, bench.project, file=file).id
    return replace(bench, store=store, job_id=job_id)  # type: ignore[arg-type] # any store will do


def assert_whole(job: Bench) -> None:
    """Check that the model and all checkpoints are in the store, with every file as it was written."""
    with job.database.transaction() as session:
        trees = [model.blob for model in session.scalars(select(TrainedModel))]
        assert len(trees) == 1 + len(queries.latest_checkpoints(session, job.job_id))
    for number, blob in enumerate(trees):
        job.store.fetch_tree(blob, job.settings.state_dir / f"fetched-{number}")  # verifies the digests


def test_store_outage_requeues_the_job(job: Bench, flaky: FlakyS3) -> None:
    thread = job.start("train_held:40:8")
    eventually(lambda: job.job().step >= 8)
    flaky.is_unavailable = True
    job.release()
    thread.join(60)
    assert not thread.is_alive()
    assert (job.status(), job.job().crashes) == (JobStatus.queued, 0)
    flaky.is_unavailable = False
    assert job.run("train:40").status == JobStatus.succeeded
    with job.database.transaction() as session:
        first, second = queries.list_attempts(session, job.job_id)
    assert (first.outcome, second.outcome) == (AttemptOutcome.dependency_down, AttemptOutcome.succeeded)
    assert second.resumed_from_step >= 2
    assert_whole(job)


def test_random_store_errors_are_retried(job: Bench, flaky: FlakyS3) -> None:
    flaky.failure_share = 0.05
    assert job.run("train:40").status == JobStatus.succeeded
    assert flaky.failures > 0
    assert_whole(job)
