"""The workers and what they are at."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.jobs.state_machine import JobStatus
from app.core.jobs.tables import Job
from app.core.workers.presence import Seen, list_workers


@dataclass(frozen=True)
class Member:
    """A worker with its jobs."""

    seen: Seen
    running: int
    """Jobs of all projects."""
    own_jobs: tuple[str, ...]
    """Ids of those of the project that asks: others' are none of its business."""


def members(session: Session, project_id: str, alive_seconds: float) -> list[Member]:
    """All workers by name; those count as alive that were heard of in the last `alive_seconds`."""
    running = select(Job.lease_owner, Job.id, Job.project_id).where(Job.status == JobStatus.running).order_by(Job.id)
    rows = session.execute(running).all()
    return [
        Member(
            seen,
            sum(row.lease_owner == seen.worker.name for row in rows),
            tuple(row.id for row in rows if row.lease_owner == seen.worker.name and row.project_id == project_id),
        )
        for seen in list_workers(session, alive_seconds)
    ]
