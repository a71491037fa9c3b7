"""Deletes finished jobs with all that is theirs. What somebody still needs of them refuses."""

from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest
from app.core.files.tables import File
from app.core.jobs.model_use import delete_model
from app.core.jobs.queries import job_of_project
from app.core.jobs.state_machine import TERMINAL
from app.core.jobs.tables import Checkpoint, Group, Job, JobAttempt, JobEvent, Metric, MetricRollup
from app.core.models.tables import TrainedModel

_PARTS: Final = (Checkpoint, Group, Metric, MetricRollup, JobEvent, JobAttempt)


def delete_job(session: Session, project_id: str, job_id: str) -> Job:
    """Deletes the rows of a job, its checkpoints and result files; remove `blobs_of` it after the commit.

    Raises `NotFound`, and `InvalidRequest` for a job that is not finished, whose published model is still there, or
    one of whose checkpoints somebody needs (see `delete_model`).
    """
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
    session.delete(job)
    session.flush()
    return job


def blobs_of(job_id: str) -> str:
    """Where everything lies that a job's attempts have stored."""
    return f"jobs/{job_id}"
