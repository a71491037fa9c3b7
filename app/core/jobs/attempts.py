"""How attempts end: their outcome, the crash budget and its back-off. Knows no claims."""

import random
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Date, cast, extract, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.accounts.tables import ProjectUsage
from app.core.jobs.events import Event, clean
from app.core.jobs.state_machine import AttemptOutcome, JobStatus
from app.core.jobs.tables import Job, JobAttempt
from app.core.jobs.transitions import transition

MAX_CRASHES: Final = 3
"""Crashes since the last progress that make a job fail."""
BACKOFF_SECONDS: Final = 10.0
MAX_BACKOFF_SECONDS: Final = 600.0
THIS_MONTH: Final = cast(func.date_trunc("month", func.timezone("UTC", func.now())), Date)
"""First day of the calendar month, by the database's clock."""


def backoff(failures: int) -> timedelta:
    """A random wait of at most 10 s x 2^n (cap: 10 minutes) after `failures` (from 1) in a row."""
    longest = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2 ** min(failures - 1, 10))
    # Jitter against thundering herds, no secret.
    return timedelta(seconds=random.uniform(0, longest))  # noqa: S311


def outcome_of(session: Session, job_id: str, attempt: int) -> str | None:
    """How an attempt ended; None while it has not, or when its job is gone."""
    of_it = select(JobAttempt.outcome).where(JobAttempt.job_id == job_id, JobAttempt.attempt == attempt)
    return session.scalar(of_it)


def close_attempt(session: Session, job_id: str, attempt: int, outcome: AttemptOutcome, reason: str | None) -> None:
    """Writes down why an attempt ended, and what it used; the first answer stays."""
    ended = session.execute(
        update(JobAttempt)
        .where(JobAttempt.job_id == job_id, JobAttempt.attempt == attempt, JobAttempt.outcome.is_(None))
        .values(outcome=outcome, reason=clean(reason), ended_at=func.now())
        .returning(extract("epoch", JobAttempt.ended_at - JobAttempt.started_at) * JobAttempt.processes),
        execution_options={"synchronize_session": False},
    ).one_or_none()
    if ended is not None:
        project = select(Job.project_id).where(Job.id == job_id).scalar_subquery()
        used = insert(ProjectUsage).values(project_id=project, month=THIS_MONTH, gpu_seconds=float(ended[0]))
        total = ProjectUsage.gpu_seconds + used.excluded.gpu_seconds
        session.execute(
            used.on_conflict_do_update(index_elements=["project_id", "month"], set_={"gpu_seconds": total}),
            execution_options={"synchronize_session": False},
        )


def charge_crash(session: Session, job: Job, outcome: AttemptOutcome, reason: str, log_tail: str = "") -> None:
    """Ends the running attempt of `job`, whose row the caller holds, with one crash on its budget.

    The job is queued again after a back-off; it fails at `MAX_CRASHES` crashes without progress in between.
    Raises `LostLease` when the attempt no longer owns the job.
    """
    crashes = job.crashes + 1
    close_attempt(session, job.id, job.attempt, outcome, reason)
    if crashes >= MAX_CRASHES:
        message = f"The job crashed {crashes} times without progress. The last time: {reason}."
        fail_running(session, job, "crashed_repeatedly", f"{message}\n{log_tail}".strip(), crashes=crashes)
        return
    # The first lost lease has been waited for already: for as long as the lease was.
    wait = timedelta(0) if outcome is AttemptOutcome.lost_lease and crashes == 1 else backoff(crashes)
    event = Event(
        f"{reason}; trying again in {wait.total_seconds():.0f} s (crash {crashes} of at most {MAX_CRASHES})",
        level="warn",
        data={"log_tail": log_tail} if log_tail else None,
    )
    transition(
        session,
        job.id,
        {JobStatus.running},
        JobStatus.queued,
        event,
        attempt=job.attempt,
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
    """Fails a running job whose row the caller holds; `changes` are written with it. Raises `LostLease`."""
    transition(
        session,
        job.id,
        {JobStatus.running},
        JobStatus.failed,
        Event(f"The job failed: {message}", level="error", data={"code": code, "param": param}),
        attempt=job.attempt,
        error=clean({"code": code, "message": message, "param": param}),
        crashes=job.crashes if crashes is None else crashes,
        **changes,
    )
