"""Deletes files that no live job needs. Here, not in `core.files`, which knows no jobs."""

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest
from app.core.files.tables import File
from app.core.files.uploads import get_file
from app.core.jobs.states import TERMINAL
from app.core.jobs.tables import Job


def delete_file(session: Session, project_id: str, file_id: str) -> File:
    """Deletes the row and returns it; delete its blob after the commit.

    Raises `NotFound`, and `InvalidRequest` while a job that is not finished uses the file.
    """
    file = get_file(session, project_id, file_id, lock=True)
    uses = or_(Job.training_file == file_id, Job.validation_file == file_id)
    live = select(Job.id).where(Job.project_id == project_id, Job.status.not_in(TERMINAL), uses).limit(1)
    job_id = session.scalar(live)
    if job_id is not None:
        raise InvalidRequest(
            f"The file '{file_id}' is used by the job {job_id}; cancel that job or wait for its end first.",
            code="file_in_use",
        )
    session.delete(file)
    session.flush()
    return file
