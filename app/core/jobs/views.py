"""A job as clients see it: the row, and what only other rows know about it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.core.jobs.progress import eta_seconds
from app.core.jobs.queries import queue_positions
from app.core.jobs.tables import Job


@dataclass(frozen=True)
class JobView:
    """A job with its place in the queue or its expected end."""

    job: Job
    queue_position: int | None
    """1 is the next one; None unless queued."""
    eta_seconds: float | None
    """Seconds to the last step; None unless it runs and has a pace."""
    estimated_finish: float | None
    """The same in Unix seconds."""


def view(session: Session, job: Job) -> JobView:
    """One job."""
    return views(session, [job])[0]


def views(session: Session, jobs: Sequence[Job]) -> list[JobView]:
    """The jobs in their order."""
    positions = queue_positions(session, jobs)
    etas = eta_seconds(session, jobs)
    return [_view(job, positions.get(job.id), etas.get(job.id)) for job in jobs]


def _view(job: Job, position: int | None, eta: float | None) -> JobView:
    return JobView(job, position, eta, None if eta is None else time.time() + eta)
