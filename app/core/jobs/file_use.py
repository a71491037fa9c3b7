"""Deletes files that no live job needs. Here, not in `core.files`, which knows no jobs."""

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.core.errors import InvalidRequest
from app.core.files.tables import File
from app.core.files.uploads import get_file
from app.core.jobs.state_machine import TERMINAL
from app.core.jobs.tables import Job


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
