"""Deletes files, trained models and finished jobs; refuses while something still uses them.

It belongs to jobs, not to files or models: `core.files` and `core.models` do not import jobs.
"""

from typing import Final

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.core.accounts import audit
from app.core.accounts.audit import Action, Actor
from app.core.errors import InvalidRequest, PermissionDenied
from app.core.files.tables import File
from app.core.files.uploads import get_file
from app.core.jobs.queries import job_of_project
from app.core.jobs.state_machine import TERMINAL
from app.core.jobs.tables import (
    Checkpoint,
    Group,
    Job,
    JobAttempt,
    JobEvent,
    Metric,
    MetricRollup,
    RemovedCheckpoint,
)
from app.core.models.adapters import find_adapter, get_own
from app.core.models.aliases import alias_names
from app.core.models.tables import TrainedModel


def _used_by_live_job(file_id: InstrumentedAttribute[str] | str) -> tuple[ColumnElement[bool], ...]:
    return Job.status.not_in(TERMINAL), or_(
        Job.training_file == file_id, Job.validation_file == file_id, Job.test_file == file_id
    )


def delete_file(session: Session, project_id: str, file_id: str) -> File:
    """Delete the file's row and return it; delete its blobs after the commit.

    Raises `NotFound`, and `InvalidRequest` while an unfinished job uses the file.
    """
    file = get_file(session, project_id, file_id, lock=True)
    live = select(Job.id).where(Job.project_id == project_id, *_used_by_live_job(file_id)).limit(1)
    job_id = session.scalar(live)
    if job_id is not None:
        raise InvalidRequest(
            f"The file '{file_id}' is used by the job {job_id}. Cancel that job or wait for it to finish first.",
            code="file_in_use",
        )
    session.delete(file)
    session.flush()
    return file


def next_expired(session: Session) -> File | None:
    """Return an expired file that no unfinished job uses, or None, with its row locked. Delete its blobs first."""
    in_use = select(Job.id).where(*_used_by_live_job(File.id)).exists()
    expired = select(File).where(File.expires_at <= func.now(), ~in_use).order_by(File.expires_at).limit(1)
    file = session.scalars(expired.with_for_update(skip_locked=True, of=File)).one_or_none()
    # A job may have been committed between the statement's snapshot and the lock. The lock keeps out further ones.
    if file is not None and session.scalar(select(Job.id).where(*_used_by_live_job(file.id)).limit(1)) is not None:
        return None
    return file


def delete_model(session: Session, project_id: str, name: str) -> TrainedModel:
    """Delete the model's row, its permissions and its checkpoint; return the row. Delete its blobs after the commit.

    Raises `NotFound`, `PermissionDenied` for a model that another project shares, and `InvalidRequest` while an alias
    points to the model, an unfinished job starts from it, or the job that made it may still resume from it.
    """
    shared = find_adapter(session, project_id, name)
    if shared is not None and shared.project_id != project_id:
        raise PermissionDenied(f"The model '{name}' is shared with this project; only its owner can delete it.")
    # A transaction that creates a job from this model holds the model's row until it commits; wait for it here, so that
    # the query below sees that job.
    model = get_own(session, project_id, name, lock=True)
    starts = select(Job.id).where(Job.status.not_in(TERMINAL), Job.spec["model"].astext == name).limit(1)
    if (job_id := session.scalar(starts)) is not None:
        raise _in_use(f"The job {job_id} starts from the model '{name}'")
    if named := alias_names(session, name):
        message = f"The alias {named[0]} points to the model '{name}'. Move or delete that alias first."
        raise InvalidRequest(message, code="model_in_use", param="model")
    if model.step is not None:
        own = select(Job.id).where(Job.id == model.job_id, Job.status.not_in(TERMINAL))
        if session.scalar(own) is not None:
            raise _in_use(f"The job {model.job_id} may resume from its checkpoint '{name}'")
        session.execute(delete(Checkpoint).where(Checkpoint.job_id == model.job_id, Checkpoint.step == model.step))
        session.merge(RemovedCheckpoint(job_id=model.job_id, step=model.step))
    session.delete(model)
    session.flush()
    return model


def _in_use(reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"{reason}. Cancel that job or wait for it to finish first.", code="model_in_use", param="model"
    )


_PARTS: Final = (Checkpoint, RemovedCheckpoint, Group, Metric, MetricRollup, JobEvent, JobAttempt)


def delete_job(session: Session, actor: Actor, job_id: str) -> Job:
    """Delete the rows of a job, its checkpoints and its result files; delete its blobs (`blobs_of`) after the commit.

    Its control stays, as a job of its own. Raises `NotFound`, and `InvalidRequest` for a job that is unfinished, that
    is the control of an unfinished job, whose published model still exists, or one of whose checkpoints is in use (see
    `delete_model`).
    """
    project_id = actor.project_id
    job = job_of_project(session, project_id, job_id, lock=True)
    if job.status not in TERMINAL:
        raise InvalidRequest(
            f"Job {job_id} is {job.status}. Cancel it or wait for it to finish first.", code="job_in_use"
        )
    compared = select(Job.id).where(Job.id == job.control_of, Job.status.not_in(TERMINAL))
    if job.control_of is not None and (compared_id := session.scalar(compared)) is not None:
        message = f"Job {job_id} is the control of {compared_id}, which is unfinished and will be compared with it."
        raise InvalidRequest(f"{message} Wait for that job to finish first.", code="job_in_use")
    session.execute(update(Job).where(Job.control_of == job_id).values(control_of=None))
    for name, step in session.execute(select(TrainedModel.id, TrainedModel.step).where(TrainedModel.job_id == job_id)):
        if step is None:
            message = f"The job {job_id} published the model '{name}', which still exists. Delete that model first."
            raise InvalidRequest(message, code="job_in_use")
        delete_model(session, project_id, name)
    session.execute(delete(File).where(File.id.in_(job.result_files), File.project_id == project_id))
    for part in _PARTS:
        session.execute(delete(part).where(part.job_id == job_id))
    before = audit.snapshot(job, "status", "training_file", "validation_file", "fine_tuned_model")
    session.delete(job)
    session.flush()
    audit.record(session, actor, Action.job_delete, job.id, before=before)
    return job


def blobs_of(job_id: str) -> str:
    """Return the key prefix of all blobs that the attempts of a job have stored."""
    return f"jobs/{job_id}"
