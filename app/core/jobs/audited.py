"""What clients do to a job, each with its entry in the audit log."""

from collections.abc import Callable

import structlog
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.core.accounts import audit
from app.core.accounts.audit import Action, Actor
from app.core.jobs import deletion, events, lifecycle
from app.core.jobs.queries import job_of_project
from app.core.jobs.tables import Job

log = structlog.get_logger(__name__)


def cancel(session: Session, actor: Actor, job_id: str) -> Job:
    """`lifecycle.cancel` in the actor's project."""
    return _change(session, actor, job_id, Action.job_cancel, lifecycle.cancel)


def pause(session: Session, actor: Actor, job_id: str) -> Job:
    """`lifecycle.pause` in the actor's project."""
    return _change(session, actor, job_id, Action.job_pause, lifecycle.pause)


def resume(session: Session, actor: Actor, job_id: str) -> Job:
    """`lifecycle.resume` in the actor's project."""
    return _change(session, actor, job_id, Action.job_resume, lifecycle.resume)


def prioritise(session: Session, actor: Actor, job_id: str, priority: int) -> Job:
    """`lifecycle.prioritise` in the actor's project."""
    before = audit.snapshot(job_of_project(session, actor.project_id, job_id, lock=True), "priority")
    job = lifecycle.prioritise(session, actor.project_id, job_id, priority)
    audit.record(session, actor, Action.job_update, job.id, before=before, after=audit.snapshot(job, "priority"))
    return job


def delete(session: Session, actor: Actor, job_id: str) -> Job:
    """`removal.delete_job` in the actor's project."""
    job = deletion.delete_job(session, actor.project_id, job_id)
    before = audit.snapshot(job, "status", "training_file", "validation_file", "fine_tuned_model")
    audit.record(session, actor, Action.job_delete, job.id, before=before)
    return job


def note_created(session: Session, actor: Actor, job: Job) -> None:
    """The entry for a job that was created in this transaction, the trace that it is part of, and a line in the log."""
    after = audit.snapshot(job, "status", "training_file", "validation_file")
    after |= {name: job.spec.get(name) for name in ("model", "method")}
    audit.record(session, actor, Action.job_create, job.id, after=after)
    events.keep_trace(session, job.id)
    event.listen(session, "after_commit", lambda _: log.info("job.created", job=job.id), once=True)


def _change(
    session: Session, actor: Actor, job_id: str, action: Action, change: Callable[[Session, str, str], Job]
) -> Job:
    # Locked, so that what was there before is what the change finds.
    before = audit.snapshot(job_of_project(session, actor.project_id, job_id, lock=True), "status", "stop_request")
    job = change(session, actor.project_id, job_id)
    audit.record(session, actor, action, job.id, before=before, after=audit.snapshot(job, "status", "stop_request"))
    return job
