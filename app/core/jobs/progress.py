"""How long a running job still takes, from the pace of its latest steps."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.jobs.states import JobStatus
from app.core.jobs.tables import Job, JobAttempt, Metric

PACE_STEPS = 20
"""Steps that the pace is taken from."""


def eta_seconds(session: Session, job: Job) -> float | None:
    """Seconds to the last step; None unless the job runs and has made two steps in this attempt."""
    if job.status != JobStatus.running or job.total_steps is None:
        return None
    began = select(JobAttempt.started_at).where(JobAttempt.job_id == job.id, JobAttempt.epoch == job.epoch)
    latest = (
        select(Metric.step, Metric.created_at)
        .where(Metric.job_id == job.id, Metric.step > 0, Metric.created_at > began.scalar_subquery())
        .order_by(Metric.step.desc())
        .limit(PACE_STEPS)
        .subquery()
    )
    first, last, since, until = session.execute(
        select(
            func.min(latest.c.step),
            func.max(latest.c.step),
            func.min(latest.c.created_at),
            func.max(latest.c.created_at),
        )
    ).one()
    if first is None or last == first:
        return None
    pace: float = (until - since).total_seconds() / (last - first)
    left: float = pace * (job.total_steps - last)
    return max(0.0, left)
