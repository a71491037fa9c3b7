"""Claims, heartbeats and expiry of leases, all by the database's clock.

Each claim gives a job a new attempt number, the fencing token. Only the newest attempt owns the job: every write of a
worker checks the number, so a worker that lost its lease can change nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import structlog
from sqlalchemy import Row, case, func, select, text, update
from sqlalchemy.orm import Session

from app.core.accounts.tables import Project
from app.core.errors import LostLease
from app.core.jobs import gangs, stored_specs
from app.core.jobs.attempts import charge_crash
from app.core.jobs.controls import waits_sql
from app.core.jobs.events import Event, append
from app.core.jobs.gangs import Slot
from app.core.jobs.placement import hardware_for
from app.core.jobs.state_machine import AttemptOutcome, JobStatus, StopRequest
from app.core.jobs.stored_specs import NewerJob
from app.core.jobs.tables import AttemptMember, IdleSlot, Job, JobAttempt
from app.core.spec.hardware import Hardware
from app.core.spec.job import JobSpec
from app.core.spec.resources import MAX_NODES
from app.core.webhooks.events import EventType, emit
from app.core.workers import presence

log = structlog.get_logger(__name__)

NO_LIMIT: Final = 2**31 - 1
CANCEL_SECONDS: Final = 6.0
"""The lease of a cancelled job ends after this time: its worker, which polls every second, may be dead."""

FIRST: Final = 32
"""Jobs at the front of each project's queue that a claim considers: more than workers claim at the same moment."""

# Finds the next job and starts it, in one statement. The subquery that picks the job does not depend on the outer row,
# so it runs once.
#
#   busy       running jobs of each project, for its limit and for fairness
#   usage      GPU seconds that each project has used in this calendar month (UTC), for its limit
#   first      the first `depth` eligible jobs of each project's queue: a long queue costs no more than a short one
#   candidate  the same jobs again, so that FOR UPDATE locks the chosen job only and not all that `first` reads
#
# Order: the highest priority first; among equals the project with the fewest running jobs, so that one project with a
# long queue cannot starve the others; then the job that has waited longest.
#
# FOR UPDATE ... SKIP LOCKED skips jobs that another claim has locked, so concurrent claims take different jobs instead
# of waiting for each other. If another claim commits between this statement's snapshot and the lock, Postgres checks
# the conditions on `candidate` again with the new row, but not those inside `first`: that is why both state them.
#
# A job that waits for its control is not eligible. A job that needs more GPUs than the worker has is not for it; the
# worker takes the next job instead, so that no GPU is idle. A job over several workers also needs idle slots (`gangs`).
#
# `waiting_since` is the start of the wait for a dependency (see `waits`). Time in the queue after the backoff is not
# part of that wait, so it moves the start.
#
# `epoch` is the attempt number. Adding one takes the job away from every earlier attempt for good.
_CLAIM: Final = text(
    f"""
    UPDATE jobs
    SET status = 'running', epoch = epoch + 1, lease_owner = :worker,
        lease_until = now() + make_interval(secs => :lease_seconds), stop_request = NULL, held_at = NULL,
        started_at = coalesce(started_at, now()),
        waiting_since = waiting_since + (now() - greatest(
            eligible_at, (SELECT max(ended_at) FROM job_attempts WHERE job_attempts.job_id = jobs.id)
        ))
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
            SELECT id FROM jobs
            WHERE project_id = project.id AND status = 'queued' AND eligible_at <= now() AND id <> ALL(:skipped)
                  AND gpus <= :gpus AND nodes <= :nodes AND NOT {waits_sql("jobs")}
            ORDER BY priority DESC, eligible_at, created_at, id LIMIT :depth
        ) AS first
        JOIN jobs AS candidate ON candidate.id = first.id
        WHERE candidate.status = 'queued' AND candidate.eligible_at <= now() AND NOT {waits_sql("candidate")}
              AND coalesce(busy.jobs, 0) < coalesce(project.max_running_jobs, :max_running_jobs)
              AND coalesce(usage.gpu_seconds, 0) < coalesce(project.max_gpu_hours, :max_gpu_hours) * 3600.0
        ORDER BY candidate.priority DESC, coalesce(busy.jobs, 0), candidate.eligible_at, candidate.created_at,
                 candidate.id
        FOR UPDATE OF candidate SKIP LOCKED
        LIMIT 1
    )
    RETURNING id, project_id, epoch, spec, training_file, validation_file, test_file, created_at,
              (SELECT data->>'traceparent' FROM job_events WHERE job_id = jobs.id AND seq = 1) AS traceparent,
              extract(epoch FROM now() - eligible_at)::float AS waited_seconds
    """  # noqa: S608 - constants
)


@dataclass(frozen=True)
class Claim:
    """A claimed job: the attempt number, which is the fencing token, and what to train."""

    job_id: str
    project_id: str
    attempt: int
    spec: JobSpec
    training_file: str
    validation_file: str | None
    test_file: str | None
    created_at: datetime
    """When the job was created."""
    processes: int = 1
    """Processes that train the job together on this worker."""
    nodes: int = 1
    """Workers that train the job together."""
    node: int = 0
    """The number of this worker among them: 0 leads the attempt, the others are its members."""
    traceparent: str | None = None
    """W3C traceparent of the request that created the job; None if it was not traced."""
    waited_seconds: float = 0.0
    """Seconds between becoming eligible and the claim."""


Claimer = Callable[[Session], Claim | None]
"""`claim` with its further arguments."""


def claim(
    session: Session,
    worker: str,
    lease_seconds: float,
    max_running_jobs: int = NO_LIMIT,
    *,
    max_gpu_hours: int = NO_LIMIT,
    hardware: Hardware | None = None,
    slot: Slot | None = None,
) -> Claim | None:
    """Claim the next queued job by priority, then fewest running jobs of its project, then age.

    Projects at a limit are skipped; `max_running_jobs` and `max_gpu_hours` (a month) apply to projects without their
    own limits. `hardware` is that of the worker: it decides which jobs fit, and its device is stored with the attempt.
    Without it, the worker takes jobs for one process. With a `slot` it also takes jobs over several workers, together
    with the idle slots of other workers.

    Returns None if no job is eligible, or if the slot waits for others (`gangs.is_awaited`).
    """
    limits = {"max_running_jobs": max_running_jobs, "max_gpu_hours": max_gpu_hours}
    values = {"worker": worker, "lease_seconds": lease_seconds, **limits}
    taken = _take(session, values, hardware or _ONE_PROCESS, slot)
    if taken is None:
        return None
    row, spec, used, others = taken
    nodes = 1 + len(others)
    device = None if hardware is None else used.giving(used.processes * nodes).device
    processes = used.processes * nodes
    session.add(JobAttempt(job_id=row.id, attempt=row.epoch, worker=worker, device=device, processes=processes))
    session.flush()
    gangs.add_members(session, row.id, row.epoch, others, lease_seconds)
    data = {"attempt": row.epoch, "worker": worker}
    if others:
        data["members"] = [idle.worker for idle in others]
    append(session, row.id, Event("Fine-tuning job started", data=data))
    emit(session, row.project_id, EventType.running, row.id)
    return Claim(
        row.id,
        row.project_id,
        row.epoch,
        spec,
        row.training_file,
        row.validation_file,
        row.test_file,
        row.created_at,
        used.processes,
        nodes,
        0,
        row.traceparent,
        row.waited_seconds,
    )


_ONE_PROCESS: Final = Hardware(memory_bytes=1)


def _take(
    session: Session, values: dict[str, Any], hardware: Hardware, slot: Slot | None
) -> tuple[Row[Any], JobSpec, Hardware, list[IdleSlot]] | None:
    """Claim a job whose project stays within its limit of running jobs.

    Return its row, its spec, the part of the worker's hardware that trains it, and the slots of the other workers.
    """
    values |= {"gpus": hardware.gpus, "nodes": 1 if slot is None else MAX_NODES}
    may_hold = slot is not None
    depth: int | None = FIRST
    skipped: list[str] = []
    while True:
        savepoint = session.begin_nested()
        row = session.execute(_CLAIM, values | {"depth": depth, "skipped": skipped}).one_or_none()
        if row is not None and not _within_limit(session, row.project_id, values["max_running_jobs"]):
            # Another worker took the project's last place after this statement's snapshot. The next try sees that.
            savepoint.rollback()
            continue
        if row is not None:
            try:
                spec = stored_specs.read(row.id, row.spec)
            except NewerJob as error:  # left to a newer worker; the jobs behind it must not wait for that
                savepoint.rollback()
                log.warning("claim.skipped", job=row.id, reason=error.message)
                skipped.append(row.id)
                continue
            used = hardware_for(spec.resources, hardware) or hardware
            nodes = spec.resources.nodes
            others = [] if slot is None or nodes == 1 else gangs.take(session, slot, used.processes, nodes - 1)
            if others is None:
                savepoint.rollback()
                # Only the first one in the queue's order that could run holds the slot: of many, one always would.
                if slot is not None and may_hold and _could_run(session, slot, used, nodes, values["lease_seconds"]):
                    if gangs.hold(session, row.id):
                        return None
                    may_hold = False
                # Jobs over more workers would find too few as well. A long queue of them must not cost a try each.
                values["nodes"] = nodes - 1
                continue
            savepoint.commit()
            return row, spec, used, others
        savepoint.commit()
        if depth is None:
            return None
        depth = None  # other claims may have locked all of the first jobs: search the whole queues


def _could_run(session: Session, slot: Slot, used: Hardware, nodes: int, alive_seconds: float) -> bool:
    """Return whether the running workers could train a job over `nodes` of them if all were free."""
    return presence.training_slots(session, slot.kind, used.processes, alive_seconds) >= nodes


def _within_limit(session: Session, project_id: str, default: int) -> bool:
    """Return whether the project's running jobs, with the new claim, are within its limit.

    Locking the project's row makes concurrent claims of the same project count one after the other.
    """
    own = session.scalar(
        select(Project.max_running_jobs).where(Project.id == project_id).with_for_update(key_share=True)
    )
    limit = default if own is None else own
    running = select(func.count()).select_from(Job).where(Job.project_id == project_id, Job.status == JobStatus.running)
    return (session.scalar(running) or 0) <= limit


def _owned(claim: Claim) -> tuple[Any, ...]:
    return Job.id == claim.job_id, Job.attempt == claim.attempt, Job.status == JobStatus.running


def update_owned(session: Session, claim: Claim, **values: Any) -> None:
    """Update the job's row for its owner, which then holds the row lock. Raises `LostLease` if it is not the owner."""
    statement = update(Job).where(*_owned(claim)).values(**values).returning(Job.id)
    if session.execute(statement, execution_options={"synchronize_session": False}).one_or_none() is None:
        raise lost(claim)


def hold(session: Session, claim: Claim) -> None:
    """Lock the job's row for its owner until the transaction ends. Raises `LostLease` if it is not the owner."""
    if session.scalar(select(Job.id).where(*_owned(claim)).with_for_update(key_share=True)) is None:
        raise lost(claim)


def lost(claim: Claim) -> LostLease:
    """Return the error for an attempt that no longer owns its job."""
    return LostLease(f"Attempt {claim.attempt} no longer owns job {claim.job_id}.")


def heartbeat(session: Session, claim: Claim, lease_seconds: float) -> StopRequest | None:
    """Extend the lease and return the pending stop request, if any. Raises `LostLease` if the job has another owner.

    The lease of a cancelled job is not extended.
    """
    extended = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, lease_seconds)
    until = case((Job.stop_request == StopRequest.cancel, Job.lease_until), else_=extended)
    statement = update(Job).where(*_owned(claim)).values(lease_until=until).returning(Job.stop_request)
    row = session.execute(statement, execution_options={"synchronize_session": False}).one_or_none()
    if row is None:
        raise lost(claim)
    return StopRequest(row.stop_request) if row.stop_request else None


def stop_requested(session: Session, claim: Claim) -> StopRequest | None:
    """Return the pending stop request without extending the lease; cheap enough to poll. Raises `LostLease`."""
    row = session.execute(select(Job.stop_request).where(*_owned(claim))).one_or_none()
    if row is None:
        raise lost(claim)
    return StopRequest(row.stop_request) if row.stop_request else None


def note_training(session: Session, claim: Claim, step: int) -> None:
    """Store that the attempt begins to train now, and the step of the checkpoint that it resumed from (0: none)."""
    session.execute(
        update(JobAttempt)
        .where(JobAttempt.job_id == claim.job_id, JobAttempt.attempt == claim.attempt)
        .values(resumed_from_step=step, training_at=func.now()),
        execution_options={"synchronize_session": False},
    )


def end_soon(session: Session, job: Job) -> None:
    """Let the lease of a cancelled job, whose row the caller holds, end within `CANCEL_SECONDS`."""
    job.lease_until = func.least(Job.lease_until, func.now() + func.make_interval(0, 0, 0, 0, 0, 0, CANCEL_SECONDS))
    session.flush()


def expire(session: Session) -> int:
    """Take running jobs away from owners whose lease has expired; return how many.

    A job with a client's stop request stops. Any other job is charged one crash, because the job itself may be what
    kills its workers: it is queued again, or fails once its crash budget is used up.
    """
    expired = session.scalars(
        select(Job)
        .where(Job.status == JobStatus.running, Job.lease_until < func.now())
        .with_for_update(skip_locked=True),
        execution_options={"populate_existing": True},
    ).all()
    for job in expired:
        charge_crash(
            session, job, AttemptOutcome.lost_lease, f"The worker {job.lease_owner} stopped renewing its lease"
        )
    return len(expired) + _expire_members(session)


def _expire_members(session: Session) -> int:
    """End the attempts of which a further worker's lease has expired; return how many."""
    is_lost = (
        (AttemptMember.job_id == Job.id)
        & (AttemptMember.attempt == Job.attempt)
        & (AttemptMember.lease_until < func.now())
        & AttemptMember.ended_at.is_(None)
    )
    expired = session.execute(
        select(Job, AttemptMember.worker)
        .join(AttemptMember, is_lost)
        .where(Job.status == JobStatus.running)
        .with_for_update(of=Job, skip_locked=True),
        execution_options={"populate_existing": True},
    )
    lost_workers = {job.id: (job, worker) for job, worker in expired}
    for job, worker in lost_workers.values():
        charge_crash(session, job, AttemptOutcome.lost_lease, f"The worker {worker} stopped renewing its lease")
    return len(lost_workers)
