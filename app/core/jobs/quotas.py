"""What a project uses of its limits, and refusals past them. Here, not in `core.accounts`, which knows no jobs."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.accounts.projects import get_project
from app.core.accounts.tables import ProjectUsage
from app.core.errors import InvalidRequest, QuotaExceeded
from app.core.files.tables import File
from app.core.jobs.attempts import THIS_MONTH
from app.core.jobs.state_machine import JobStatus
from app.core.jobs.tables import Job

QUEUED: Final = (JobStatus.validating_files, JobStatus.queued, JobStatus.paused)
"""What `queued_jobs` counts. Paused jobs too: else pausing would make room for ever more."""


@dataclass(frozen=True)
class Usage:
    """What a project has now."""

    running_jobs: int
    queued_jobs: int
    stored_bytes: int
    gpu_hours: float
    """Of attempts that have ended in this calendar month."""


def usage(session: Session, project_id: str) -> Usage:
    """Counted, not kept: there is no number that could be wrong."""
    return Usage(
        running_jobs=_jobs(session, project_id, JobStatus.running),
        queued_jobs=_jobs(session, project_id, *QUEUED),
        stored_bytes=_stored_bytes(session, project_id),
        gpu_hours=_gpu_hours(session, project_id),
    )


def check_queued_jobs(session: Session, project_id: str, limit: int) -> None:
    """Raises `QuotaExceeded` when one more job would be too many. Holds the project's row until the commit."""
    project = get_project(session, project_id, lock=True)
    waiting = _jobs(session, project_id, *QUEUED)
    if waiting >= limit:
        raise QuotaExceeded(
            f"The project '{project.name}' may have {limit:,} jobs that wait (queued_jobs: validating, queued or "
            f"paused) and has {waiting:,}. Wait until some have started, cancel some, or ask an administrator for "
            "a higher limit."
        )


def check_gpu_hours(session: Session, project_id: str, limit: int) -> None:
    """Raises `QuotaExceeded` for a project that has used its hours of this month."""
    used = _gpu_hours(session, project_id)
    if used >= limit:
        raise QuotaExceeded(
            f"The project may use {limit:,} GPU hours a month (gpu_hours) and has used {used:,.1f}. Wait for the next "
            "month, or ask an administrator for a higher limit."
        )


def check_stored_bytes(session: Session, project_id: str, adding: int, limit: int) -> None:
    """Raises `QuotaExceeded` when so many more bytes are too many. Holds the project's row until the commit."""
    project = get_project(session, project_id, lock=True)
    stored = _stored_bytes(session, project_id)
    if stored + adding > limit:
        raise QuotaExceeded(
            f"The project '{project.name}' may store {limit:,} bytes of files (stored_bytes), has {stored:,}, and "
            f"this is {adding:,} more. Delete files that are not needed any more, or ask an administrator for a "
            "higher limit."
        )


def check_priority(priority: int, limit: int) -> None:
    """Raises `InvalidRequest` when the project's jobs may not go first so much."""
    if priority > limit:
        raise InvalidRequest(
            f"Jobs of this project may have a priority of {limit} at most; {priority} is more. Ask an administrator "
            "for a higher limit (limits.priority).",
            param="priority",
        )


def _jobs(session: Session, project_id: str, *statuses: JobStatus) -> int:
    counted = select(func.count()).select_from(Job).where(Job.project_id == project_id, Job.status.in_(statuses))
    return session.scalar(counted) or 0


def _stored_bytes(session: Session, project_id: str) -> int:
    return int(session.scalar(select(func.coalesce(func.sum(File.bytes), 0)).where(File.project_id == project_id)) or 0)


def _gpu_hours(session: Session, project_id: str) -> float:
    of_it = select(ProjectUsage.gpu_seconds).where(
        ProjectUsage.project_id == project_id, ProjectUsage.month == THIS_MONTH
    )
    return (session.scalar(of_it) or 0.0) / 3600
