"""Waits for a dependency: an outage is waited for, and rows on which it always fails end the job."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.jobs import leases, lifecycle, outcomes, queries
from app.core.jobs.journal import Journal
from app.core.jobs.leases import Claim
from app.core.jobs.state_machine import AttemptOutcome, JobStatus
from app.core.jobs.tables import Job, JobAttempt
from app.core.jobs.waits import MAX_ROW_FAILURES, MAX_WAIT
from app.core.spec.reports import Metrics
from tests.setup_jobs import make_job, make_project


@pytest.fixture
def job_id(database: Database) -> str:
    with database.transaction() as session:
        return make_job(session, make_project(session)).id


def claimed(session: Session, job_id: str) -> Claim:
    """Claim the job, also during its backoff."""
    session.get_one(Job, job_id).eligible_at = func.now()
    session.flush()
    claim = leases.claim(session, "w", 60)
    assert claim is not None
    return claim


def wait(database: Database, job_id: str, *rows: int) -> Job:
    """Run an attempt that ends because a dependency failed, on certain rows or altogether; return the job."""
    with database.transaction() as session:
        claim = claimed(session, job_id)
        outcomes.wait_for_dependency(session, claim, "The teacher answered 503: busy", rows)
        return queries.job_of_project(session, claim.project_id, job_id)


def test_rows_that_always_fail_end_the_job(database: Database, job_id: str) -> None:
    for others in range(1, MAX_ROW_FAILURES):
        assert wait(database, job_id, 3, 17, 100 + others).status == JobStatus.queued
    job = wait(database, job_id, 3, 17)
    assert (job.status, job.crashes) == (JobStatus.failed, 0)
    assert job.error is not None
    assert (job.error["code"], job.error["param"]) == ("rows_failed", "training_file")
    assert "Lines 3, 17 of the training file failed in 3 attempts" in job.error["message"]
    assert "answered 503: busy" in job.error["message"]
    with database.transaction() as session:
        attempts = queries.list_attempts(session, job_id)
    assert [attempt.outcome for attempt in attempts] == [AttemptOutcome.dependency_down] * MAX_ROW_FAILURES
    assert attempts[0].reason == "The teacher answered 503: busy (lines 3, 17, 101)"


def test_outage_is_waited_for(database: Database, job_id: str) -> None:
    for _ in range(2 * MAX_ROW_FAILURES):
        job = wait(database, job_id)
        assert (job.status, job.failing_rows) == (JobStatus.queued, None)


def test_outage_without_end_fails_the_job(database: Database, job_id: str) -> None:
    began = wait(database, job_id).waiting_since
    assert began is not None
    assert wait(database, job_id).waiting_since == began
    with database.transaction() as session:
        session.get_one(Job, job_id).waiting_since = began - MAX_WAIT
    job = wait(database, job_id)
    assert job.status == JobStatus.failed
    assert job.error is not None
    assert job.error["code"] == "dependency_down"
    assert "waited for 7 days without a new step" in job.error["message"]


def test_time_in_the_queue_is_no_wait(database: Database, job_id: str) -> None:
    """No worker was free for eight days after the first outage, or another job had it."""
    began = wait(database, job_id).waiting_since
    assert began is not None
    with database.transaction() as session:
        job = session.get_one(Job, job_id)
        job.waiting_since, job.eligible_at = began - MAX_WAIT, began - MAX_WAIT + timedelta(hours=2)
        session.execute(update(JobAttempt).values(ended_at=began - MAX_WAIT + timedelta(hours=1)))
    with database.transaction() as session:
        claim = leases.claim(session, "w", 60)
        assert claim is not None
        waited = session.scalars(select(func.now() - Job.waiting_since)).one()
        assert waited == timedelta(hours=2)
        outcomes.wait_for_dependency(session, claim, "The teacher answered 503: busy")
        assert session.get_one(Job, job_id).status == JobStatus.queued


def test_requeued_job_waits_since_its_attempt(database: Database, job_id: str) -> None:
    """A drained job gets its old place, which is earlier than the end of its attempt."""
    began = wait(database, job_id).waiting_since
    with database.transaction() as session:
        outcomes.drain(session, claimed(session, job_id))
    with database.transaction() as session:
        assert leases.claim(session, "w", 60) is not None
        moved = session.scalars(select(Job.waiting_since)).one()
    assert moved is not None
    assert began is not None
    assert timedelta(0) <= moved - began < timedelta(minutes=5)


def test_new_step_and_resume_reset_the_waits(database: Database, job_id: str) -> None:
    for step in (1, 1, 2):
        for _ in range(MAX_ROW_FAILURES - 1):
            job = wait(database, job_id, 3)
            assert job.status == JobStatus.queued
        with database.transaction() as session:
            claim = claimed(session, job_id)
        Journal(database, claim).metrics([Metrics(step=step, values={})])
        with database.transaction() as session:
            outcomes.drain(session, claim)
            job = session.get_one(Job, job_id, populate_existing=True)
            if job.failing_rows is not None:  # step 1 for the second time is no progress
                lifecycle.pause(session, Actor(claim.project_id), job_id)
                lifecycle.resume(session, Actor(claim.project_id), job_id)
            session.refresh(job)
            assert (job.status, job.waiting_since, job.failing_rows) == (JobStatus.queued, None, None)
