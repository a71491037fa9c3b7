"""A job of a higher priority preempts a job of a lower priority, and no other job."""

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from app.core.accounts.audit import Actor
from app.core.accounts.tables import Project
from app.core.db import Database
from app.core.errors import InvalidRequest
from app.core.jobs import leases, lifecycle, outcomes, preemption, queries
from app.core.jobs.leases import Claim
from app.core.jobs.state_machine import AttemptOutcome, JobStatus, StopRequest
from app.core.jobs.tables import Job
from app.core.spec.hardware import Hardware
from app.core.workers import presence
from app.core.workers.tables import WorkerState
from tests.setup_jobs import make_job, make_project

PATIENCE = 15.0


def queued(session: Session, project: str, priority: int = 0, waited_seconds: float = 60.0) -> Job:
    job = make_job(session, project)
    job.priority = priority
    job.eligible_at = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, waited_seconds)
    session.flush()
    return job


def running(session: Session, project: str, priority: int = 0, worker: str = "w") -> tuple[Job, Claim]:
    job = queued(session, project, priority)
    claim = leases.claim(session, worker, 60)
    assert claim is not None
    assert claim.job_id == job.id
    session.refresh(job)
    return job, claim


def stop_requests(session: Session, *jobs: Job) -> list[str | None]:
    for job in jobs:
        session.refresh(job)
    return [job.stop_request for job in jobs]


@pytest.fixture
def project(database: Database) -> str:
    with database.transaction() as session:
        return make_project(session)


def test_preempts_lowest_priority_least_steps(database: Database, project: str) -> None:
    with database.transaction() as session:
        (far, _), (near, claim), (high, _) = (running(session, project, n) for n in (0, 0, 9))
        far.step, near.step = 40, 3
        urgent = queued(session, make_project(session, "other"), 5)
        assert preemption.make_room(session, PATIENCE) == 1
        assert stop_requests(session, far, near, high) == [None, "preempt", None]
        assert preemption.make_room(session, PATIENCE) == 0  # its place is already being made
        assert leases.heartbeat(session, claim, 60) is StopRequest.preempt
        outcomes.stop(session, claim, StopRequest.preempt)
        session.refresh(near)
        assert (near.status, near.crashes, near.stop_request) == (JobStatus.queued, 0, None)
        [attempt] = queries.list_attempts(session, near.id)
        assert (attempt.outcome, attempt.reason) == (
            AttemptOutcome.preempted,
            "Preempted by a higher-priority job",
        )
        messages = [event.message for event in queries.list_events(session, near.id, after=None, limit=2)[0]]
        assert messages[1] == (
            "A job of another project with priority 5 preempts this job with priority 0; it saves a checkpoint first"
        )
        assert urgent.id not in "".join(messages)  # of another project
        order = [claim.job_id for claim in (leases.claim(session, "w", 60), leases.claim(session, "w", 60)) if claim]
        assert order == [urgent.id, near.id]


def test_no_preemption_for_equal_or_recent_job(database: Database, project: str) -> None:
    with database.transaction() as session:
        job, _ = running(session, project, 5)
        queued(session, project, 5)
        queued(session, project, 9, waited_seconds=1)
        assert preemption.make_room(session, PATIENCE) == 0
        assert stop_requests(session, job) == [None]


def test_one_preemption_per_waiting_job(database: Database, project: str) -> None:
    with database.transaction() as session:
        jobs = [running(session, project)[0] for _ in range(3)]
        lifecycle.pause(session, Actor(project), jobs[0].id)
        queued(session, project, 1)
        queued(session, project, 2)
        assert preemption.make_room(session, PATIENCE) == 1
        assert sorted(map(str, stop_requests(session, *jobs))) == ["None", "pause", "preempt"]


def test_project_at_limit_preempts_own_job(database: Database, project: str) -> None:
    with database.transaction() as session:
        full = make_project(session, "full")
        session.execute(update(Project).where(Project.id == full).values(max_running_jobs=1))
        other, _ = running(session, project)
        own, claim = running(session, full, 3)
        queued(session, full, 5)
        assert preemption.make_room(session, PATIENCE) == 1
        assert stop_requests(session, other, own) == [None, "preempt"]
        lifecycle.cancel(session, Actor(full), own.id)  # what a client asks goes before
        assert leases.heartbeat(session, claim, 60) is StopRequest.cancel
        outcomes.stop(session, claim, StopRequest.cancel)
        session.execute(update(Project).where(Project.id == full).values(max_running_jobs=0))
        assert preemption.make_room(session, PATIENCE) == 0


def test_lost_worker_during_preemption_is_charged(database: Database, project: str) -> None:
    with database.transaction() as session:
        job, _ = running(session, project)
        queued(session, project, 5)
        assert preemption.make_room(session, PATIENCE) == 1
        job.lease_until = func.now() - func.make_interval(0, 0, 0, 1)
        session.flush()
        assert leases.expire(session) == 1
        session.refresh(job)
        assert (job.status, job.crashes) == (JobStatus.queued, 1)


def test_priority_changes_until_job_ends(database: Database, project: str) -> None:
    with database.transaction() as session:
        first, second = queued(session, project), queued(session, project)
        lifecycle.prioritise(session, Actor(project), second.id, 7)
        assert queries.queue_positions(session, [first, second]) == {second.id: 1, first.id: 2}
        [event], _ = queries.list_events(session, second.id, after=None, limit=1)
        assert event.message == "Priority changed from 0 to 7"
        lifecycle.cancel(session, Actor(project), second.id)
        with pytest.raises(InvalidRequest, match="already been cancelled"):
            lifecycle.prioritise(session, Actor(project), second.id, 8)


def test_preempts_only_workers_with_enough_gpus(database: Database, project: str) -> None:
    with database.transaction() as session:
        for name, gpus in (("w", 1), ("large", 4)):
            hardware = Hardware(accelerators=gpus, memory_bytes=1)
            presence.beat(session, name, state=WorkerState.ready, queues=["train"], slots=1, hardware=hardware)
        on_small, _ = running(session, project)
        on_large, _ = running(session, project, worker="large")
        on_large.step = 40
        wide = queued(session, project, 5)
        wide.gpus = 8
        session.flush()
        assert preemption.make_room(session, PATIENCE) == 0
        wide.gpus = 4
        session.flush()
        assert preemption.make_room(session, PATIENCE) == 1
        assert stop_requests(session, on_small, on_large) == [None, "preempt"]
        assert preemption.make_room(session, PATIENCE) == 0
