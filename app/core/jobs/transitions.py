"""Changes of a job's status: a guarded UPDATE and its event, in the caller's transaction.

Every status change goes through here but the claim: `leases.claim` picks a job and starts it in one SQL statement.
"""

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import func, update
from sqlalchemy.orm import Session

from app.core.errors import LostLease
from app.core.jobs.events import Event, append
from app.core.jobs.state_machine import TERMINAL, TRANSITIONS, JobStatus
from app.core.jobs.tables import Job
from app.core.webhooks.events import EventType, emit

_WEBHOOK_EVENTS: Final = {
    JobStatus.succeeded: EventType.succeeded,
    JobStatus.failed: EventType.failed,
    JobStatus.cancelled: EventType.cancelled,
    JobStatus.paused: EventType.paused,
}
"""Target status -> the webhook event. A requeued job has its own event, and `leases.claim` emits `running`."""


def transition(
    session: Session,
    job_id: str,
    sources: Iterable[JobStatus],
    target: JobStatus,
    *events: Event,
    **values: Any,
) -> Job:
    """Move a job from one of `sources` to `target` and append `events`. `values` are further columns to set.

    A caller that ends an attempt holds the job's row, and has checked that the attempt owns it. Raises `LostLease` if
    the job has another status, and `ValueError` for a move that is not in `TRANSITIONS`.
    """
    sources = frozenset(sources)
    if unknown := [source for source in sources if target not in TRANSITIONS[source]]:
        raise ValueError(f"TRANSITIONS has no move from {unknown[0]} to {target}")
    if target is not JobStatus.running:
        values |= {"lease_owner": None, "lease_until": None, "stop_request": None}
    if target in TERMINAL:
        values["finished_at"] = func.now()
    job = session.scalars(
        update(Job).where(Job.id == job_id, Job.status.in_(sources)).values(status=target, **values).returning(Job),
        execution_options={"synchronize_session": False, "populate_existing": True},
    ).one_or_none()
    if job is None:
        raise LostLease(f"Job {job_id} is no longer {' or '.join(sorted(sources))}.")
    append(session, job_id, *events)
    webhook_event = (
        EventType.requeued
        if sources == {JobStatus.running} and target is JobStatus.queued
        else _WEBHOOK_EVENTS.get(target)
    )
    if webhook_event is not None:
        facts = {"verdict": job.verdict} if target in (JobStatus.succeeded, JobStatus.failed) else {}
        emit(session, job.project_id, webhook_event, job.id, **facts)
    return job
