"""Ends of attempts: the outcome, the GPU time, the crash budget and its backoff. Claims are in `leases`."""

import random
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Date, cast, extract, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.accounts.tables import ProjectUsage
from app.core.jobs.events import Event, clean
from app.core.jobs.state_machine import AttemptOutcome, JobStatus, StopRequest
from app.core.jobs.tables import AttemptMember, Job, JobAttempt
from app.core.jobs.transitions import transition

MAX_CRASHES: Final = 3
"""A job fails after this number of crashes without progress."""
BACKOFF_SECONDS: Final = 10.0
MAX_BACKOFF_SECONDS: Final = 600.0
THIS_MONTH: Final = cast(func.date_trunc("month", func.timezone("UTC", func.now())), Date)
"""First day of the calendar month, by the database's clock."""


def backoff(failures: int) -> timedelta:
    """Return a random wait below 10 s x 2^(failures - 1), capped at 10 minutes. `failures` counts from 1."""
    longest = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2 ** min(failures - 1, 10))
    # Jitter spreads the retries of jobs that failed together; it is no secret.
    return timedelta(seconds=random.uniform(0, longest))  # noqa: S311


def outcome_of(session: Session, job_id: str, attempt: int) -> str | None:
    """Return how an attempt ended; None if it has not ended or its job was deleted."""
    outcome = select(JobAttempt.outcome).where(JobAttempt.job_id == job_id, JobAttempt.attempt == attempt)
    return session.scalar(outcome)


def close_attempt(session: Session, job_id: str, attempt: int, outcome: AttemptOutcome, reason: str | None) -> None:
    """Store why an attempt ended and add its GPU seconds to the project's month. Closing it again changes nothing."""
    ended = session.execute(
        update(JobAttempt)
        .where(JobAttempt.job_id == job_id, JobAttempt.attempt == attempt, JobAttempt.outcome.is_(None))
        .values(outcome=outcome, reason=clean(reason), ended_at=func.now())
        .returning(extract("epoch", JobAttempt.ended_at - JobAttempt.started_at) * JobAttempt.processes),
        execution_options={"synchronize_session": False},
    ).one_or_none()
    if ended is not None:
        members = (AttemptMember.job_id == job_id, AttemptMember.attempt == attempt, AttemptMember.ended_at.is_(None))
        session.execute(
            update(AttemptMember).where(*members).values(ended_at=func.now()),
            execution_options={"synchronize_session": False},
        )
        project = select(Job.project_id).where(Job.id == job_id).scalar_subquery()
        used = insert(ProjectUsage).values(project_id=project, month=THIS_MONTH, gpu_seconds=float(ended[0]))
        total = ProjectUsage.gpu_seconds + used.excluded.gpu_seconds
        session.execute(
            used.on_conflict_do_update(index_elements=["project_id", "month"], set_={"gpu_seconds": total}),
            execution_options={"synchronize_session": False},
        )


def obeys_client(session: Session, job: Job, outcome: AttemptOutcome, reason: str) -> bool:
    """End the running attempt of `job` as its client asked; return False without a client's stop request.

    The caller holds the job's row. An attempt may end for a reason of its own before its runner learns of the request;
    the request must not be lost then.
    """
    targets = {StopRequest.cancel: JobStatus.cancelled, StopRequest.pause: JobStatus.paused}
    target = targets.get(StopRequest(job.stop_request)) if job.stop_request else None
    if target is None:
        return False
    close_attempt(session, job.id, job.attempt, outcome, reason)
    event = Event(f"{reason}; the job is {target}, as requested", level="warn")
    transition(session, job.id, {JobStatus.running}, target, event)
    return True


def charge_crash(session: Session, job: Job, outcome: AttemptOutcome, reason: str, log_tail: str = "") -> None:
    """End the running attempt of `job`, whose row the caller holds, and charge one crash.

    A job with a client's stop request stops and is charged nothing. Any other job is queued again after a backoff, or
    fails after `MAX_CRASHES` crashes without progress. Raises `LostLease` if the attempt no longer owns the job.
    """
    if obeys_client(session, job, outcome, reason):
        return
    crashes = job.crashes + 1
    close_attempt(session, job.id, job.attempt, outcome, reason)
    if crashes >= MAX_CRASHES:
        message = f"The job crashed {crashes} times without progress. The last time: {reason}."
        fail_running(session, job, "crashed_repeatedly", f"{message}\n{log_tail}".strip(), crashes=crashes)
        return
    # After the first lost lease no wait: the job has already waited for the lease to expire.
    wait = timedelta(0) if outcome is AttemptOutcome.lost_lease and crashes == 1 else backoff(crashes)
    event = Event(
        f"{reason}. Retrying in {wait.total_seconds():.0f} s (crash {crashes} of at most {MAX_CRASHES})",
        level="warn",
        data={"log_tail": log_tail} if log_tail else None,
    )
    transition(
        session,
        job.id,
        {JobStatus.running},
        JobStatus.queued,
        event,
        crashes=crashes,
        eligible_at=func.now() + wait,
    )


def fail_running(
    session: Session,
    job: Job,
    code: str,
    message: str,
    *,
    param: str | None = None,
    crashes: int | None = None,
    **changes: Any,
) -> None:
    """Fail a running job whose row the caller holds. `changes` are further columns to set. Raises `LostLease`."""
    transition(
        session,
        job.id,
        {JobStatus.running},
        JobStatus.failed,
        Event(f"The job failed: {message}", level="error", data={"code": code, "param": param}),
        error=clean({"code": code, "message": message, "param": param}),
        crashes=job.crashes if crashes is None else crashes,
        **changes,
    )
