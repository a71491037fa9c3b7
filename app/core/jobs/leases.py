"""Claims, heartbeats and expiry, all by the database's clock. Whoever holds the newest epoch owns the job."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, func, select, text, update
from sqlalchemy.orm import Session

from app.core.accounts.tables import Project
from app.core.errors import LostLease
from app.core.jobs.attempts import charge_crash, close_attempt
from app.core.jobs.events import Event, append
from app.core.jobs.state_machine import AttemptOutcome, JobStatus, StopRequest
from app.core.jobs.tables import Job, JobAttempt
from app.core.jobs.transitions import transition
from app.core.spec.job import JobSpec
from app.core.webhooks.events import EventType, emit

NO_LIMIT: Final = 2**31 - 1

FIRST: Final = 32
"""Of each project's queue that a claim looks at: more than are being claimed at the same moment."""

# An uncorrelated scalar subquery runs once; SKIP LOCKED makes concurrent claims take different jobs. What is asked of
# `first` is asked of `candidate` again: Postgres checks that once more when another claim has just changed the row.
_CLAIM: Final = text(
    """
    UPDATE jobs
    SET status = 'running', epoch = epoch + 1, lease_owner = :worker,
        lease_until = now() + make_interval(secs => :lease_seconds), stop_request = NULL,
        started_at = coalesce(started_at, now())
    WHERE status = 'queued' AND id = (
        SELECT candidate.id
        FROM projects AS project
        LEFT JOIN (
            SELECT project_id, count(*) AS jobs FROM jobs WHERE status = 'running' GROUP BY project_id
        ) AS busy
            ON busy.project_id = project.id
        LEFT JOIN project_usage AS usage
            ON usage.project_id = project.id AND usage.month = date_trunc('month', now() AT TIME ZONE 'UTC')::date
        CROSS JOIN LATERAL (
            SELECT id FROM jobs WHERE project_id = project.id AND status = 'queued' AND eligible_at <= now()
            ORDER BY priority DESC, eligible_at, created_at, id LIMIT :depth
        ) AS first
        JOIN jobs AS candidate ON candidate.id = first.id
        WHERE candidate.status = 'queued' AND candidate.eligible_at <= now()
              AND coalesce(busy.jobs, 0) < coalesce(project.max_running_jobs, :max_running_jobs)
              AND coalesce(usage.gpu_seconds, 0) < coalesce(project.max_gpu_hours, :max_gpu_hours) * 3600.0
        ORDER BY candidate.priority DESC, coalesce(busy.jobs, 0), candidate.eligible_at, candidate.created_at,
                 candidate.id
        FOR UPDATE OF candidate SKIP LOCKED
        LIMIT 1
    )
    RETURNING id, project_id, epoch, spec, training_file, validation_file,
              (SELECT data->>'traceparent' FROM job_events WHERE job_id = jobs.id AND seq = 1) AS traceparent,
              extract(epoch FROM now() - eligible_at)::float AS waited_seconds
    """
)


@dataclass(frozen=True)
class Claim:
    """One attempt at a job: the fencing token and what it is asked to do."""

    job_id: str
    project_id: str
    attempt: int
    spec: JobSpec
    training_file: str
    validation_file: str | None
    traceparent: str | None = None
    """The span that its creation was part of, if that was traced."""
    waited_seconds: float = 0.0
    """Since the job could run."""


def claim(
    session: Session,
    worker: str,
    lease_seconds: float,
    max_running_jobs: int = NO_LIMIT,
    *,
    max_gpu_hours: int = NO_LIMIT,
    device: str | None = None,
    processes: int = 1,
) -> Claim | None:
    """Takes the best queued job: priority, then the project with the fewest running jobs, then age.

    Projects at their limit are passed over; `max_running_jobs` and `max_gpu_hours` (a month) are those of projects
    without their own. `device` is what the worker trains on, in so many `processes`. None when nothing is queued and
    eligible.
    """
    limits = {"max_running_jobs": max_running_jobs, "max_gpu_hours": max_gpu_hours}
    row = _take(session, {"worker": worker, "lease_seconds": lease_seconds, **limits})
    if row is None:
        return None
    session.add(JobAttempt(job_id=row.id, attempt=row.epoch, worker=worker, device=device, processes=processes))
    session.flush()
    append(session, row.id, Event("Fine-tuning job started", data={"attempt": row.epoch, "worker": worker}))
    emit(session, row.project_id, EventType.running, row.id)
    return Claim(
        row.id,
        row.project_id,
        row.epoch,
        JobSpec.model_validate(row.spec),
        row.training_file,
        row.validation_file,
        row.traceparent,
        row.waited_seconds,
    )


def _take(session: Session, values: dict[str, Any]) -> Row[Any] | None:
    """The row of a job that is running from now on, its project within its limit."""
    depth: int | None = FIRST
    while True:
        savepoint = session.begin_nested()
        row = session.execute(_CLAIM, values | {"depth": depth}).one_or_none()
        if row is not None and not _within_limit(session, row.project_id, values["max_running_jobs"]):
            # Another worker has filled the project's last place meanwhile, and committed: the next try sees it.
            savepoint.rollback()
            continue
        savepoint.commit()
        if row is not None or depth is None:
            return row
        depth = None  # others may be claiming all of the first ones


def _within_limit(session: Session, project_id: str, default: int) -> bool:
    """Whether the project's running jobs are not too many, counted one claim after the other."""
    own = session.scalar(
        select(Project.max_running_jobs).where(Project.id == project_id).with_for_update(key_share=True)
    )
    limit = default if own is None else own
    running = select(func.count()).select_from(Job).where(Job.project_id == project_id, Job.status == JobStatus.running)
    return (session.scalar(running) or 0) <= limit


def _owned(claim: Claim) -> tuple[Any, ...]:
    return Job.id == claim.job_id, Job.attempt == claim.attempt, Job.status == JobStatus.running


def update_owned(session: Session, claim: Claim, **values: Any) -> None:
    """UPDATE of the job's row by its owner; it then holds the row. Raises `LostLease` on zero rows."""
    statement = update(Job).where(*_owned(claim)).values(**values).returning(Job.id)
    if session.execute(statement, execution_options={"synchronize_session": False}).one_or_none() is None:
        raise lost(claim)


def hold(session: Session, claim: Claim) -> None:
    """Locks the job's row for its owner until the transaction ends. Raises `LostLease`."""
    if session.scalar(select(Job.id).where(*_owned(claim)).with_for_update(key_share=True)) is None:
        raise lost(claim)


def lost(claim: Claim) -> LostLease:
    """The error that says so."""
    return LostLease(f"Attempt {claim.attempt} no longer owns job {claim.job_id}.")


def heartbeat(session: Session, claim: Claim, lease_seconds: float) -> StopRequest | None:
    """Extends the lease; returns what a client asked meanwhile. Raises `LostLease` on zero rows."""
    until = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, lease_seconds)
    statement = update(Job).where(*_owned(claim)).values(lease_until=until).returning(Job.stop_request)
    row = session.execute(statement, execution_options={"synchronize_session": False}).one_or_none()
    if row is None:
        raise lost(claim)
    return StopRequest(row.stop_request) if row.stop_request else None


def stop_requested(session: Session, claim: Claim) -> StopRequest | None:
    """What a client asked, without touching the lease: cheap enough for every second. Raises `LostLease`."""
    row = session.execute(select(Job.stop_request).where(*_owned(claim))).one_or_none()
    if row is None:
        raise lost(claim)
    return StopRequest(row.stop_request) if row.stop_request else None


def note_training(session: Session, claim: Claim, step: int) -> None:
    """Writes down that the attempt's first step begins now, and after which step of the job."""
    session.execute(
        update(JobAttempt)
        .where(JobAttempt.job_id == claim.job_id, JobAttempt.attempt == claim.attempt)
        .values(resumed_from_step=step, training_at=func.now()),
        execution_options={"synchronize_session": False},
    )


def expire(session: Session) -> int:
    """Takes running jobs from owners whose lease is over; returns how many.

    A job that a client asked to stop does so. Any other is charged one crash (it may be what kills its workers):
    queued again, or failed when its budget is used up.
    """
    expired = session.scalars(
        select(Job)
        .where(Job.status == JobStatus.running, Job.lease_until < func.now())
        .with_for_update(skip_locked=True),
        execution_options={"populate_existing": True},
    ).all()
    for job in expired:
        reason = f"The worker {job.lease_owner} stopped renewing its lease"
        if job.stop_request in (None, StopRequest.preempt):
            charge_crash(session, job, AttemptOutcome.lost_lease, reason)
            continue
        close_attempt(session, job.id, job.attempt, AttemptOutcome.lost_lease, reason)
        target = JobStatus.cancelled if job.stop_request == StopRequest.cancel else JobStatus.paused
        event = Event(f"{reason}; the job is {target}, as requested", level="warn")
        transition(session, job.id, {JobStatus.running}, target, event, attempt=job.attempt)
    return len(expired)
