"""How much work waits, over all projects: two cheap questions for a scrape."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.jobs.state_machine import TERMINAL, JobStatus
from app.core.jobs.tables import Job
from app.core.prometheus import Backlog


def read(session: Session) -> Backlog:
    """What waits now, by the database's clock."""
    live = [status for status in JobStatus if status not in TERMINAL]
    counted = select(Job.status, func.count()).where(Job.status.in_(live)).group_by(Job.status)
    counts = dict.fromkeys(map(str, live), 0) | {row[0]: row[1] for row in session.execute(counted)}
    age = func.extract("epoch", func.now() - func.min(Job.eligible_at))
    waiting = select(func.coalesce(age, 0)).where(Job.status == JobStatus.queued, Job.eligible_at <= func.now())
    return Backlog(counts, float(session.scalars(waiting).one()))
