"""How long a running job still takes: at first as estimated, then more and more by the pace of its latest steps."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.estimates.estimate import Estimate
from app.core.jobs.states import JobStatus
from app.core.jobs.tables import Job, JobAttempt, Metric

PACE_STEPS = 20
"""Steps that the pace is taken from; with so many of them it alone counts."""


def eta_seconds(session: Session, job: Job) -> float | None:
    """Seconds to the end; None unless the job runs and has an estimate or has made two steps in this attempt."""
    if job.status != JobStatus.running:
        return None
    attempt = (JobAttempt.job_id == job.id, JobAttempt.epoch == job.epoch)
    began = select(JobAttempt.started_at, JobAttempt.training_at, func.now()).where(*attempt)
    found = session.execute(began).one_or_none()
    if found is None:  # reads are no transaction: the job is gone meanwhile
        return None
    started, training, now = found
    expected = _as_estimated(job, training, (now - started).total_seconds())
    steps, by_pace = (0, None) if job.total_steps is None else _by_pace(session, job, job.total_steps, started)
    if by_pace is None:
        return expected
    if expected is None:
        return by_pace
    trust = min(1.0, steps / PACE_STEPS)
    return trust * by_pace + (1 - trust) * expected


def _as_estimated(job: Job, training: datetime | None, elapsed_seconds: float) -> float | None:
    made = None if job.estimate is None else Estimate.model_validate(job.estimate)
    if made is None or made.seconds is None or made.parts is None:
        return None
    setup = made.parts["setup"]
    left = max(0, (job.total_steps or made.steps) - job.step)
    loading = max(0.0, setup - elapsed_seconds) if training is None else 0.0
    return loading + left * (made.seconds.expected - setup) / made.steps


def _by_pace(session: Session, job: Job, total_steps: int, started: datetime) -> tuple[int, float | None]:
    """Over how many steps the pace was taken, and what it makes of the others."""
    latest = (
        select(Metric.step, Metric.created_at)
        .where(Metric.job_id == job.id, Metric.step > 0, Metric.created_at > started)
        .order_by(Metric.step.desc())
        .limit(PACE_STEPS + 1)
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
        return 0, None
    pace: float = (until - since).total_seconds() / (last - first)
    return last - first, max(0.0, pace * (total_steps - last))
