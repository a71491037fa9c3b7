"""Which workers run which jobs, the further workers of a job included."""

from typing import Any, NamedTuple

from sqlalchemy import Result, select, union_all
from sqlalchemy.orm import Session

from app.core.jobs.state_machine import JobStatus
from app.core.jobs.tables import AttemptMember, Job


class Occupied(NamedTuple):
    """A slot of a worker that runs a job."""

    worker: str
    job_id: str
    project_id: str


def occupied_slots(session: Session) -> list[Occupied]:
    """Return the occupied slots of all workers, by job."""
    columns = (Job.id.label("job_id"), Job.project_id)
    leaders = select(Job.lease_owner.label("worker"), *columns).where(Job.status == JobStatus.running)
    members = (
        select(AttemptMember.worker, *columns)
        .join(Job, (Job.id == AttemptMember.job_id) & (Job.attempt == AttemptMember.attempt))
        .where(Job.status == JobStatus.running, AttemptMember.ended_at.is_(None))
    )
    rows: Result[Any] = session.execute(union_all(leaders, members).order_by("job_id"))
    return [Occupied(row.worker, row.job_id, row.project_id) for row in rows]
