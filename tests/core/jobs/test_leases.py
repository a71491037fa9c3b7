"""Leases give a job one owner: claims, heartbeats, expiry, fencing, fairness and the crash budget."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.errors import LostLease
from app.core.files import uploads
from app.core.jobs import attempts, invariants, leases, lifecycle, outcomes, queries
from app.core.jobs.leases import Claim
from app.core.jobs.state_machine import AttemptOutcome, JobStatus, StopRequest
from app.core.jobs.tables import Job, JobAttempt
from app.core.models.tables import TrainedModel
from app.core.spec.reports import Finished
from tests.setup_jobs import make_job, make_project, make_queue, metrics_csv

FINISHED = Finished(step=3, path="/x", trained_tokens=9, published_step=3, reason="the last step")


def claimed(session: Session, worker: str = "w") -> Claim:
    claim = leases.claim(session, worker, 60)
    assert claim is not None
    return claim


def let_lease_end(session: Session, job_id: str) -> None:
    session.execute(update(Job).where(Job.id == job_id).values(lease_until=func.now() - func.make_interval(0, 0, 0, 1)))


def test_claim_creates_attempt_and_event(database: Database) -> None:
    with database.transaction() as session:
        job = make_job(session, make_project(session))
        claim = claimed(session)
        session.refresh(job)
        assert (claim.job_id, claim.attempt, job.status, job.lease_owner) == (job.id, 1, JobStatus.running, "w")
        assert job.started_at is not None
        assert [attempt.worker for attempt in queries.list_attempts(session, job.id)] == ["w"]
        events, _ = queries.list_events(session, job.id, after=None, limit=1)
        assert events[0].message == "Fine-tuning job started"
        assert leases.claim(session, "w", 60) is None


def test_concurrent_claims_take_different_jobs(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        for _ in range(8):
            make_job(session, project)
    barrier = threading.Barrier(12)

    def one(number: int) -> str | None:
        barrier.wait()
        with database.transaction() as session:
            claim = leases.claim(session, f"w{number}", 60)
        return claim.job_id if claim else None

    with ThreadPoolExecutor(12) as pool:
        taken = [job for job in pool.map(one, range(12)) if job]
    assert len(taken) == len(set(taken)) == 8


def test_claim_searches_past_locked_jobs(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        make_queue(session, make_job(session, project), leases.FIRST)
    with database.transaction() as others, database.transaction() as session:
        first = select(Job.id).order_by(Job.eligible_at).limit(leases.FIRST).with_for_update()
        held = set(others.scalars(first))
        assert len(held) == leases.FIRST
        claim = claimed(session)
        assert claim.job_id not in held
        assert leases.claim(session, "w", 60) is None


def test_claim_order_priority_fairness_age(database: Database) -> None:
    with database.transaction() as session:
        a, b = make_project(session, "a"), make_project(session, "b")
        old, older = make_job(session, a), make_job(session, a)
        lone, urgent = make_job(session, b), make_job(session, a)
        urgent.priority = 5
        older.eligible_at = func.now() - func.make_interval(0, 0, 0, 1)
    order = []
    for _ in range(4):
        with database.transaction() as session:
            order.append(claimed(session).job_id)
    assert order == [urgent.id, lone.id, older.id, old.id]


def test_job_in_backoff_is_not_claimed(database: Database) -> None:
    with database.transaction() as session:
        job = make_job(session, make_project(session))
        job.eligible_at = func.now() + func.make_interval(0, 0, 0, 1)
        session.flush()
        assert leases.claim(session, "w", 60) is None
        assert not queries.any_queued(session)


def test_expired_lease_requeues_and_fences(database: Database) -> None:
    with database.transaction() as session:
        job = make_job(session, make_project(session))
        old = claimed(session)
        assert leases.expire(session) == 0
        let_lease_end(session, job.id)
        assert leases.expire(session) == 1
        session.refresh(job)
        assert (job.status, job.crashes, job.lease_owner) == (JobStatus.queued, 1, None)
        assert queries.list_attempts(session, job.id)[0].outcome == AttemptOutcome.lost_lease
        job.eligible_at = func.now()
        session.flush()
        new = claimed(session, "other")
        assert new.attempt == old.attempt + 1
    writes: list[outcomes.Ending] = [
        lambda s: leases.heartbeat(s, old, 60),
        lambda s: leases.stop_requested(s, old),
        lambda s: leases.hold(s, old),
        lambda s: outcomes.succeed(s, old, FINISHED, "blob", "tiny", metrics_csv()),
        lambda s: outcomes.fail(s, old, "code", "message"),
        lambda s: outcomes.crash(s, old, "reason", ""),
        lambda s: outcomes.drain(s, old),
        lambda s: outcomes.wait_for_dependency(s, old, "reason"),
    ]
    for write in writes:
        with pytest.raises(LostLease), database.transaction() as session:
            write(session)
    with database.transaction() as session:
        assert leases.heartbeat(session, new, 60) is None
        assert session.scalar(select(func.count()).select_from(TrainedModel)) == 0
        assert queries.list_attempts(session, job.id)[1].outcome is None


def lose_lease(session: Session, claim: Claim) -> None:
    let_lease_end(session, claim.job_id)
    assert leases.expire(session) == 1


@pytest.mark.parametrize(
    ("ask", "status"), [(lifecycle.cancel, JobStatus.cancelled), (lifecycle.pause, JobStatus.paused)]
)
@pytest.mark.parametrize(
    "end",
    [
        lose_lease,
        lambda s, claim: outcomes.crash(s, claim, "The trainer was killed by SIGKILL", ""),
        lambda s, claim: outcomes.gpu_fault(s, claim, "The GPU is broken", ""),
        lambda s, claim: outcomes.wait_for_dependency(s, claim, "The store is away"),
        outcomes.drain,
        outcomes.preempt,
        lambda s, claim: outcomes.stop(s, claim, StopRequest.preempt),
    ],
    ids=["lease", "crash", "gpu", "dependency", "drain", "preemption", "stop"],
)
def test_unknown_stop_request_is_obeyed(
    database: Database, ask: lifecycle.Change, status: JobStatus, end: Callable[[Session, Claim], None]
) -> None:
    with database.transaction() as session:
        project = make_project(session)
        job = make_job(session, project)
        claim = claimed(session)
        ask(session, Actor(project), job.id)
        end(session, claim)
        session.refresh(job)
        assert (job.status, job.crashes, job.stop_request) == (status, 0, None)
        assert queries.list_attempts(session, job.id)[0].outcome is not None
        assert invariants.breaches(session, lambda _key: True) == []


def test_unknown_cancel_outranks_pause(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        job = make_job(session, project)
        claim = claimed(session)
        lifecycle.cancel(session, Actor(project), job.id)
        outcomes.stop(session, claim, StopRequest.pause)
        session.refresh(job)
        assert job.status == JobStatus.cancelled


def test_unknown_cancel_publishes_no_model(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        job = make_job(session, project)
        claim = claimed(session)
        lifecycle.cancel(session, Actor(project), job.id)
        assert outcomes.succeed(session, claim, FINISHED, "blob", "tiny", metrics_csv()) is None
        session.refresh(job)
        assert (job.status, job.fine_tuned_model) == (JobStatus.cancelled, None)
        assert session.scalar(select(func.count()).select_from(TrainedModel)) == 0


def test_success_outranks_pause(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        job = make_job(session, project)
        claim = claimed(session)
        lifecycle.pause(session, Actor(project), job.id)
        assert outcomes.succeed(session, claim, FINISHED, "blob", "tiny", metrics_csv()) is not None
        session.refresh(job)
        assert job.status == JobStatus.succeeded


def test_resumed_job_keeps_its_place(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        first, second = (make_job(session, project) for _ in range(2))
        for minutes, job in ((2, first), (1, second)):
            job.eligible_at = func.now() - func.make_interval(0, 0, 0, 0, 0, minutes)
        session.flush()
        lifecycle.pause(session, Actor(project), first.id)
        lifecycle.resume(session, Actor(project), first.id)
        assert claimed(session).job_id == first.id


def test_lease_of_a_cancelled_job_ends_soon(database: Database) -> None:
    """Its worker may be dead; the heartbeats of one that is alive do not extend the lease."""
    with database.transaction() as session:
        project = make_project(session)
        job = make_job(session, project)
        claim = claimed(session)
        lifecycle.cancel(session, Actor(project), job.id)
    with database.transaction() as session:
        assert leases.heartbeat(session, claim, 60) is StopRequest.cancel
        left = session.scalar(select(func.extract("epoch", Job.lease_until - func.now())).where(Job.id == job.id))
    assert left is not None
    assert 0 < left <= leases.CANCEL_SECONDS


def test_three_crashes_fail_the_job(database: Database) -> None:
    with database.transaction() as session:
        job = make_job(session, make_project(session))
        for crash in range(1, attempts.MAX_CRASHES + 1):
            outcomes.crash(session, claimed(session), "The trainer was killed by SIGSEGV", "Segmentation fault")
            session.refresh(job)
            assert job.crashes == crash
            job.eligible_at = func.now()
            session.flush()
        assert job.status == JobStatus.failed
        assert job.error is not None
        assert job.error["code"] == "crashed_repeatedly"
        assert "Segmentation fault" in job.error["message"]
        ended = [attempt.outcome for attempt in queries.list_attempts(session, job.id)]
        assert ended == [AttemptOutcome.crashed] * 3


def test_backoff_grows_and_is_capped() -> None:
    for failures, longest in ((1, 10), (2, 20), (3, 40), (50, 600)):
        waits = [attempts.backoff(failures).total_seconds() for _ in range(200)]
        assert min(waits) >= 0
        assert longest / 2 < max(waits) <= longest


def test_success_publishes_model(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        job = make_job(session, project)
        csv = metrics_csv()
        model = outcomes.succeed(session, claimed(session), FINISHED, "jobs/x/a1/adapter", "tiny", csv)
        session.refresh(job)
        assert job.result_files == [csv.file_id]
        assert uploads.get_file(session, project, csv.file_id).purpose == "fine-tune-results"
        assert model == f"ft:tiny:default::{job.id[-8:]}"
        assert (job.status, job.fine_tuned_model, job.trained_tokens) == (JobStatus.succeeded, model, 9)
        assert session.get_one(TrainedModel, model).blob == "jobs/x/a1/adapter"
        events, _ = queries.list_events(session, job.id, after=None, limit=2)
        assert [event.message for event in events] == [
            "The job has successfully completed",
            f"New fine-tuned model created: {model}",
        ]


def test_drained_job_goes_first_without_crash(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        job = make_job(session, project)
        claim = claimed(session)
    with database.transaction() as session:
        make_job(session, project)
    with database.transaction() as session:
        outcomes.drain(session, claim)
    with database.transaction() as session:
        assert claimed(session).job_id == job.id
        assert session.get_one(Job, job.id).crashes == 0
        assert session.get_one(JobAttempt, (job.id, 1)).outcome == AttemptOutcome.drained
