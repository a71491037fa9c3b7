"""Deletes files, trained models and finished jobs; refuses while something still uses them.

It belongs to jobs, not to files or models: `core.files` and `core.models` do not import jobs.
"""

from typing import Final

from sqlalchemy import ColumnElement, delete, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.core.accounts import audit
from app.core.accounts.audit import Action, Actor
from app.core.errors import InvalidRequest, PermissionDenied
from app.core.files.tables import File
from app.core.files.uploads import get_file
from app.core.jobs.queries import job_of_project
from app.core.jobs.state_machine import TERMINAL
from app.core.jobs.tables import Checkpoint, Group, Job, JobAttempt, JobEvent, Metric, MetricRollup
from app.core.models.adapters import find_adapter, get_own
from app.core.models.aliases import names_of
from app.core.models.tables import TrainedModel


def _used_by_live_job(file_id: InstrumentedAttribute[str] | str) -> tuple[ColumnElement[bool], ...]:
    return Job.status.not_in(TERMINAL), or_(Job.training_file == file_id, Job.validation_file == file_id)


def delete_file(session: Session, project_id: str, file_id: str) -> File:
    """Deletes the row and returns it; delete its blobs after the commit.

    Raises `NotFound`, and `InvalidRequest` while a job that is not finished uses the file.
    """
    file = get_file(session, project_id, file_id, lock=True)
    live = select(Job.id).where(Job.project_id == project_id, *_used_by_live_job(file_id)).limit(1)
    job_id = session.scalar(live)
    if job_id is not None:
        raise InvalidRequest(
            f"The file '{file_id}' is used by the job {job_id}; cancel that job or wait for its end first.",
            code="file_in_use",
        )
    session.delete(file)
    session.flush()
    return file


def next_expired(session: Session) -> File | None:
    """An expired file that no job still needs, its row locked; remove its blobs, then the row."""
    in_use = select(Job.id).where(*_used_by_live_job(File.id)).exists()
    expired = select(File).where(File.expires_at <= func.now(), ~in_use).order_by(File.expires_at).limit(1)
    return session.scalars(expired.with_for_update(skip_locked=True, of=File)).one_or_none()


def delete_model(session: Session, project_id: str, name: str) -> TrainedModel:
    """Deletes the row, with those of its permissions and checkpoint, and returns it; delete its blobs after the commit.

    Raises `NotFound`, `PermissionDenied` for a model that another project shares, and `InvalidRequest` while a job that
    is not finished starts from the model or is the one whose checkpoint it is, or an alias names it.
    """
    shared = find_adapter(session, project_id, name)
    if shared is not None and shared.project_id != project_id:
        raise PermissionDenied(f"The model '{name}' is shared with this project; only its owner can delete it.")
    # Whoever creates a job from it holds its row until that job is there to be seen.
    model = get_own(session, project_id, name, lock=True)
    starts = select(Job.id).where(Job.status.not_in(TERMINAL), Job.spec["model"].astext == name).limit(1)
    if (job_id := session.scalar(starts)) is not None:
        raise _in_use(f"The job {job_id} starts from the model '{name}'")
    if named := names_of(session, name):
        message = f"The alias {named[0]} names the model '{name}'; move or delete that alias first."
        raise InvalidRequest(message, code="model_in_use", param="model")
    if model.step is not None:
        own = select(Job.id).where(Job.id == model.job_id, Job.status.not_in(TERMINAL))
        if session.scalar(own) is not None:
            raise _in_use(f"The job {model.job_id} goes on from its checkpoint '{name}'")
        session.execute(delete(Checkpoint).where(Checkpoint.job_id == model.job_id, Checkpoint.step == model.step))
    session.delete(model)
    session.flush()
    return model


def _in_use(reason: str) -> InvalidRequest:
    return InvalidRequest(f"{reason}; cancel that job or wait for its end first.", code="model_in_use", param="model")


_PARTS: Final = (Checkpoint, Group, Metric, MetricRollup, JobEvent, JobAttempt)


def delete_job(session: Session, actor: Actor, job_id: str) -> Job:
    """Deletes the rows of a job, its checkpoints and result files; remove `blobs_of` it after the commit.

    Raises `NotFound`, and `InvalidRequest` for a job that is not finished, whose published model is still there, or
    one of whose checkpoints somebody needs (see `delete_model`).
    """
    project_id = actor.project_id
    job = job_of_project(session, project_id, job_id, lock=True)
    if job.status not in TERMINAL:
        raise InvalidRequest(f"Job {job_id} is {job.status}; cancel it or wait for its end first.", code="job_in_use")
    for name, step in session.execute(select(TrainedModel.id, TrainedModel.step).where(TrainedModel.job_id == job_id)):
        if step is None:
            message = f"The job {job_id} published the model '{name}', which is still there; delete that model first."
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
    """Where everything lies that a job's attempts have stored."""
    return f"jobs/{job_id}"
