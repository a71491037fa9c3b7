"""What changes about jobs while somebody looks on: one cheap question for all of them, and their events in order."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest
from app.core.jobs.state_machine import TERMINAL
from app.core.jobs.tables import Job, JobEvent

RECENT_JOBS = 200
"""So many of a project's jobs, the newest ones, are looked at for its list."""


@dataclass(frozen=True)
class Pulse:
    """Everything about a job that changes as it goes; two that are equal mean that nothing happened."""

    job_id: str
    status: str
    step: int
    attempt: int
    stop_request: str | None
    last_seq: int
    """Of its newest event."""

    @property
    def is_final(self) -> bool:
        return self.status in TERMINAL


def pulses(session: Session, job_ids: Collection[str]) -> list[Pulse]:
    """Of these jobs."""
    return _pulses(session, list(job_ids))


def pulses_of_project(session: Session, project_id: str) -> list[Pulse]:
    """Of a project's newest jobs."""
    newest = (select(Job.id).where(Job.project_id == project_id).order_by(Job.created_at.desc(), Job.id.desc())).limit(
        RECENT_JOBS
    )
    return _pulses(session, list(session.scalars(newest)))


def _pulses(session: Session, job_ids: list[str]) -> list[Pulse]:
    newest = select(func.coalesce(func.max(JobEvent.seq), 0)).where(JobEvent.job_id == Job.id).scalar_subquery()
    columns = (Job.id, Job.status, Job.step, Job.attempt, Job.stop_request, newest)
    return [Pulse(*row) for row in session.execute(select(*columns).where(Job.id.in_(job_ids)))]


def events_after(session: Session, job_id: str, seq: int, limit: int) -> list[JobEvent]:
    """The events behind `seq`, the oldest first."""
    later = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > seq)
    return list(session.scalars(later.order_by(JobEvent.seq).limit(limit)))


def seq_of(session: Session, job_id: str, event_id: str) -> int:
    """The place of an event in its job. Raises `InvalidRequest` for one that the job does not have."""
    seq = session.scalar(select(JobEvent.seq).where(JobEvent.job_id == job_id, JobEvent.id == event_id))
    if seq is None:
        raise InvalidRequest(f"Last-Event-ID names no event of this job: {event_id!r}.", param="Last-Event-ID")
    return seq
