"""Why an inference request cannot use a model that it names: it never existed, is still trained, or was deleted."""

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts.audit import Action
from app.core.accounts.tables import AuditEntry, Project
from app.core.errors import NotFound
from app.core.jobs.progress import Phase, run_progress
from app.core.jobs.queries import queue_positions
from app.core.jobs.state_machine import TERMINAL, JobStatus
from app.core.jobs.tables import Job, RemovedCheckpoint
from app.core.models.tables import TrainedModel

_CHECKPOINT: Final = ":ckpt-step-"


def unknown(name: str) -> NotFound:
    """Return OpenAI's error, which does not reveal whether another project has the model."""
    return NotFound(
        f"The model `{name}` does not exist or you do not have access to it.", param="model", code="model_not_found"
    )


def missing(session: Session, project_id: str, name: str) -> NotFound:
    """Return the error for a tuned model without a row: its own job, or the audit log, may explain why.

    Its code is `model_not_ready`, `checkpoint_removed`, `model_removed` or `model_not_found`.
    """
    model, _, step = name.partition(_CHECKPOINT)
    job = _job_of(session, project_id, model)
    if not step:
        if job is not None and job.status not in TERMINAL:
            return _unfinished(session, job, name)
        deleted_at = _deleted_at(session, project_id, name)
        is_deleted = deleted_at is not None or (job is not None and job.status == JobStatus.succeeded)
        return _removed(session, project_id, name, deleted_at, job) if is_deleted else unknown(name)
    if job is None:
        deleted_at = _deleted_at(session, project_id, name)
        return unknown(name) if deleted_at is None else _removed(session, project_id, name, deleted_at, None)
    at = int(step) if step.isdecimal() else 0
    removed = session.get(RemovedCheckpoint, (job.id, at)) if at <= job.step else None
    if removed is not None:
        by_client = _deleted_at(session, project_id, name)
        if by_client is not None:
            return _removed(session, project_id, name, by_client, job)
        return _removed(session, project_id, name, removed.removed_at, job, " A job keeps its newest checkpoints only.")
    is_past = at < job.step or job.status in TERMINAL or at > (job.total_steps or at)
    return unknown(name) if is_past else _unfinished(session, job, name, at)


def _job_of(session: Session, project_id: str, model: str) -> Job | None:
    """Return the project's job that publishes `model`, whose name ends with the end of the job's id."""
    ending = model.rpartition(":")[2]
    jobs = select(Job).where(Job.project_id == project_id, func.right(Job.id, len(ending)) == ending)
    project = session.scalars(select(Project.name).where(Project.id == project_id)).one()
    for job in session.scalars(jobs):
        base, suffix = ids.base_of(job.spec["model"]), job.spec.get("suffix")
        if ending and ids.fine_tuned_model(base, project, suffix, job.id) == model:
            return job
    return None


def _deleted_at(session: Session, project_id: str, name: str) -> datetime | None:
    """Return when a client of this project deleted its model of this name."""
    return session.scalar(
        select(func.max(AuditEntry.created_at)).where(
            AuditEntry.object_id == name,
            AuditEntry.project_id == project_id,
            AuditEntry.action == Action.model_delete,
        )
    )


def _removed(
    session: Session, project_id: str, name: str, when: datetime | None, job: Job | None, reason: str = ""
) -> NotFound:
    day = "" if when is None else f" on {when.astimezone(UTC):%Y-%m-%d at %H:%M} UTC"
    left = None if job is None else _newest(session, project_id, job)
    instead = "GET /v1/models lists the models that exist." if left is None else f"Use '{left}' instead."
    code = "checkpoint_removed" if _CHECKPOINT in name else "model_removed"
    return NotFound(f"The model '{name}' was deleted{day}.{reason} {instead}", param="model", code=code)


def _newest(session: Session, project_id: str, job: Job) -> str | None:
    """Return the model that the job has published, else its newest checkpoint that can answer, if there is one."""
    models = select(TrainedModel.id).where(
        TrainedModel.job_id == job.id, TrainedModel.project_id == project_id, TrainedModel.has_adapter
    )
    return session.scalar(models.order_by(TrainedModel.step.desc().nulls_first()).limit(1))


def _unfinished(session: Session, job: Job, name: str, at: int | None = None) -> NotFound:
    """`at` is the step of a checkpoint: the job's remaining time says nothing about it."""
    state = _state(session, job, with_time=at is None)
    return NotFound(
        f"The model '{name}' does not exist yet: the job {job.id} that trains it {state}.",
        param="model",
        code="model_not_ready",
    )


def _state(session: Session, job: Job, *, with_time: bool) -> str:
    if job.status == JobStatus.paused:
        return f"is paused. POST /v1/fine_tuning/jobs/{job.id}/resume continues it"
    if job.status == JobStatus.queued:
        position = queue_positions(session, [job]).get(job.id)
        return "is queued" if position is None else f"is queued, at position {position}"
    running = run_progress(session, [job]).get(job.id)
    if running is None:
        return f"is {job.status}"
    if running.phase == Phase.saving_model:
        return "is running and saves the model now. Try again in a few seconds"
    step = "" if job.total_steps is None else f" at step {job.step} of {job.total_steps}"
    left = running.eta_seconds if with_time else None
    return f"is running{step}" + ("" if left is None or left < 1 else f" and needs about {_duration(left)} more")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{round(seconds)} s" if seconds < 100 else f"{minutes} min" if minutes < 100 else f"{minutes / 60:.0f} h"
