"""Changes of watched jobs, for polling: one cheap query for all of them, and their events in order."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest
from app.core.jobs.state_machine import TERMINAL, JobStatus
from app.core.jobs.tables import Job, JobAttempt, JobEvent

RECENT_JOBS: Final = 200
"""A project's list of jobs is polled for this number of its newest jobs."""


@dataclass(frozen=True)
class JobSnapshot:
    """All values of a job that change while it runs. Equal snapshots mean that nothing has changed."""

    job_id: str
    status: str
    step: int
    attempt: int
    stop_request: str | None
    is_training: bool
    """Whether the model is loaded; False unless the job runs."""
    is_evaluated: bool
    """Whether the job has the held-out result before training, which ends the evaluation of the base model."""
    last_seq: int
    """`seq` of the newest event; 0 without events."""

    @property
    def is_final(self) -> bool:
        return self.status in TERMINAL


def snapshots(session: Session, job_ids: Collection[str]) -> list[JobSnapshot]:
    """Return the snapshots of these jobs; deleted jobs are left out."""
    return _snapshots(session, list(job_ids))


def project_snapshots(session: Session, project_id: str) -> list[JobSnapshot]:
    """Return the snapshots of a project's newest jobs."""
    newest = (select(Job.id).where(Job.project_id == project_id).order_by(Job.created_at.desc(), Job.id.desc())).limit(
        RECENT_JOBS
    )
    return _snapshots(session, list(session.scalars(newest)))


def _snapshots(session: Session, job_ids: list[str]) -> list[JobSnapshot]:
    newest = select(func.coalesce(func.max(JobEvent.seq), 0)).where(JobEvent.job_id == Job.id).scalar_subquery()
    training = (
        select(JobAttempt.training_at.is_not(None))
        .where(JobAttempt.job_id == Job.id, JobAttempt.attempt == Job.attempt)
        .scalar_subquery()
    )
    is_training = case((Job.status == JobStatus.running, func.coalesce(training, False)), else_=False)
    is_evaluated = func.coalesce(Job.evaluation.has_key("before"), False)
    columns = (Job.id, Job.status, Job.step, Job.attempt, Job.stop_request, is_training, is_evaluated, newest)
    return [JobSnapshot(*row) for row in session.execute(select(*columns).where(Job.id.in_(job_ids)))]


def events_after(session: Session, job_id: str, seq: int, limit: int) -> list[JobEvent]:
    """Return at most `limit` events after `seq`, oldest first."""
    later = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > seq)
    return list(session.scalars(later.order_by(JobEvent.seq).limit(limit)))


def seq_of(session: Session, job_id: str, event_id: str) -> int:
    """Return the `seq` of an event of the job. Raises `InvalidRequest` if the job has no such event."""
    seq = session.scalar(select(JobEvent.seq).where(JobEvent.job_id == job_id, JobEvent.id == event_id))
    if seq is None:
        raise InvalidRequest(
            f"Last-Event-ID is not the id of an event of this job: {event_id!r}.", param="Last-Event-ID"
        )
    return seq
