"""Usage and limits of a project. They belong to jobs, not to `core.accounts`, which does not import jobs."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from app.core.accounts.projects import get_project
from app.core.accounts.tables import ProjectUsage
from app.core.errors import InvalidRequest, QuotaExceeded
from app.core.evals.tables import EvalRun
from app.core.exports.tables import Export
from app.core.files.tables import File, Upload, UploadPart, UploadStatus
from app.core.jobs.attempts import THIS_MONTH
from app.core.jobs.state_machine import JobStatus
from app.core.jobs.tables import Job
from app.core.plurals import plural

QUEUED: Final = (JobStatus.validating_files, JobStatus.queued, JobStatus.paused)
"""Statuses that `queued_jobs` counts, paused jobs included: else a client could pause jobs to queue without limit."""


@dataclass(frozen=True)
class QuotaUsage:
    """What a project uses now."""

    running_jobs: int
    queued_jobs: int
    stored_bytes: int
    gpu_hours: float
    """Hours of the attempts that ended in this calendar month."""


def usage(session: Session, project_id: str) -> QuotaUsage:
    """Count what the project uses. Only GPU hours are stored; a stored count of jobs or bytes could become wrong."""
    return QuotaUsage(
        running_jobs=_jobs(session, project_id, JobStatus.running),
        queued_jobs=_jobs(session, project_id, *QUEUED),
        stored_bytes=_stored_bytes(session, project_id),
        gpu_hours=_gpu_hours(session, project_id),
    )


def check_queued_jobs(session: Session, project_id: str, limit: int, adding: int = 1) -> None:
    """Raise `QuotaExceeded` if `adding` more jobs would exceed the limit. Holds the project's row until the commit."""
    project = get_project(session, project_id, lock=True)
    waiting = _jobs(session, project_id, *QUEUED)
    if waiting + adding > limit:
        new = "" if adding == 1 else f" This job and its control are {adding}."
        raise QuotaExceeded(
            f"The project '{project.name}' has {plural(waiting, 'waiting job')} (validating, queued or paused); its "
            f"limit is {limit:,} (queued_jobs).{new} Wait until some jobs start, cancel some, or ask an administrator "
            "for a higher limit."
        )


def check_gpu_hours(session: Session, project_id: str, limit: int) -> None:
    """Raise `QuotaExceeded` if the project has used its GPU hours of this month."""
    used = _gpu_hours(session, project_id)
    if used >= limit:
        raise QuotaExceeded(
            f"The project has used {used:,.1f} GPU hours this month; its limit is {limit:,} (gpu_hours). Wait for the "
            "next month, or ask an administrator for a higher limit."
        )


def check_stored_bytes(session: Session, project_id: str, adding: int, limit: int, kind: str = "file") -> None:
    """Raise `QuotaExceeded` if `adding` bytes would exceed the limit. Holds the project's row to the commit.

    `kind` is what has these bytes, for the message.
    """
    project = get_project(session, project_id, lock=True)
    stored = _stored_bytes(session, project_id)
    if stored + adding > limit:
        raise QuotaExceeded(
            f"The project '{project.name}' stores {stored:,} bytes of files, uploads, exports and eval runs "
            f"and may store {limit:,} (stored_bytes); this {kind} has {adding:,}. Delete files, exports or eval runs "
            "that are no longer needed, or ask an administrator for a higher limit."
        )


def check_priority(priority: int, limit: int) -> None:
    """Raise `InvalidRequest` if the priority is above the project's limit."""
    if priority > limit:
        raise InvalidRequest(
            f"The priority {priority} is above this project's limit of {limit} (limits.priority). Lower it, or ask an "
            "administrator for a higher limit.",
            param="priority",
        )


def _jobs(session: Session, project_id: str, *statuses: JobStatus) -> int:
    counted = select(func.count()).select_from(Job).where(Job.project_id == project_id, Job.status.in_(statuses))
    return session.scalar(counted) or 0


def _stored_bytes(session: Session, project_id: str) -> int:
    files = select(func.coalesce(func.sum(File.bytes), 0)).where(File.project_id == project_id)
    exports = select(func.coalesce(func.sum(Export.bytes), 0)).where(Export.project_id == project_id)
    answers = func.coalesce(EvalRun.totals["bytes"].as_integer(), 0)
    evals = select(func.coalesce(func.sum(EvalRun.bytes + answers), 0)).where(EvalRun.project_id == project_id)
    return sum(int(session.scalar(part) or 0) for part in (files, exports, evals, _uploading(project_id)))


def _uploading(project_id: str) -> Any:
    """Return a query of the bytes of uploads in parts: what is announced or stored, whichever is more.

    Of a cancelled or expired upload the parts that are not yet deleted count. A completed one has a file, which
    counts itself.
    """
    stored = (
        select(func.coalesce(func.sum(UploadPart.bytes), 0))
        .where(UploadPart.upload_id == Upload.id)
        .correlate(Upload)
        .scalar_subquery()
    )
    size = case((Upload.status == UploadStatus.pending, func.greatest(Upload.bytes, stored)), else_=stored)
    return select(func.coalesce(func.sum(size), 0)).where(
        Upload.project_id == project_id, Upload.status != UploadStatus.completed, Upload.is_swept.is_(False)
    )


def _gpu_hours(session: Session, project_id: str) -> float:
    seconds = select(ProjectUsage.gpu_seconds).where(
        ProjectUsage.project_id == project_id, ProjectUsage.month == THIS_MONTH
    )
    return (session.scalar(seconds) or 0.0) / 3600
