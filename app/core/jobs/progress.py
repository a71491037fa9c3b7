"""Remaining time of running jobs: at first from their estimate, then more and more from their latest steps."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from app.core.estimates.estimate import Estimate
from app.core.jobs.state_machine import JobStatus
from app.core.jobs.tables import Job

PACE_STEPS: Final = 20
"""The pace is measured over this number of latest steps. Once an attempt has made them, the estimate is ignored."""

# One query for all jobs of a page: for each, its current attempt and the pace of its latest steps. The jobs may have
# been read outside of this transaction; a job deleted since has no row here.
#
# Reports are stored in batches, and all steps of a batch have one timestamp. So the pace is measured from the end of an
# earlier batch to the end of the latest one. The earlier batch has the step `:steps` before the last, or is older if
# that step belongs to the latest batch; in an attempt with fewer steps it is the first batch.
_ATTEMPTS: Final = text(
    """
    SELECT attempt.job_id, attempt.training_at, EXTRACT(epoch FROM now() - attempt.started_at) AS elapsed,
           latest.step AS last, latest.step - since.step AS steps,
           EXTRACT(epoch FROM latest.created_at - earlier.created_at) AS seconds
    FROM jobs AS job
    JOIN job_attempts AS attempt ON attempt.job_id = job.id AND attempt.epoch = job.epoch
    LEFT JOIN LATERAL (
        SELECT step, created_at FROM metrics
        WHERE metrics.job_id = job.id AND step > 0 AND created_at > attempt.started_at
        ORDER BY step DESC LIMIT 1
    ) AS latest ON true
    LEFT JOIN LATERAL (
        (
            SELECT step, created_at FROM metrics
            WHERE metrics.job_id = job.id AND step BETWEEN 1 AND latest.step - :steps
              AND created_at > attempt.started_at AND created_at < latest.created_at
            ORDER BY step DESC LIMIT 1
        )
        UNION ALL
        (
            SELECT step, created_at FROM metrics
            WHERE metrics.job_id = job.id AND step > greatest(0, latest.step - :steps)
              AND created_at > attempt.started_at AND created_at < latest.created_at
            ORDER BY step LIMIT 1
        )
        ORDER BY step LIMIT 1
    ) AS earlier ON true
    LEFT JOIN LATERAL (
        SELECT max(step) AS step FROM metrics
        WHERE metrics.job_id = job.id AND step BETWEEN earlier.step AND latest.step
          AND created_at = earlier.created_at
    ) AS since ON true
    WHERE job.id = ANY(:ids) AND job.status = 'running'
    """
)


def eta_seconds(session: Session, jobs: Sequence[Job]) -> dict[str, float]:
    """Return job id -> seconds to the end. A job needs to run, and an estimate or two batches of steps."""
    running = {job.id: job for job in jobs if job.status == JobStatus.running}
    if not running:
        return {}
    rows = session.execute(_ATTEMPTS, {"ids": list(running), "steps": PACE_STEPS})
    etas = {row.job_id: _eta(running[row.job_id], row) for row in rows}
    return {job_id: eta for job_id, eta in etas.items() if eta is not None}


def _eta(job: Job, attempt: Row[Any]) -> float | None:
    expected = _as_estimated(job, attempt)
    if job.total_steps is None or not attempt.steps:
        return expected
    steps: int = attempt.steps
    by_pace: float = max(0.0, float(attempt.seconds) / steps * (job.total_steps - attempt.last))
    if expected is None:
        return by_pace
    trust = min(1.0, steps / PACE_STEPS)
    return trust * by_pace + (1 - trust) * expected


def _as_estimated(job: Job, attempt: Row[Any]) -> float | None:
    estimate = None if job.estimate is None else Estimate.model_validate(job.estimate)
    if estimate is None or estimate.seconds is None or estimate.parts is None:
        return None
    setup = estimate.parts["setup"]
    left = max(0, (job.total_steps or estimate.steps) - job.step)
    loading = max(0.0, setup - float(attempt.elapsed)) if attempt.training_at is None else 0.0
    return loading + left * (estimate.seconds.expected - setup) / estimate.steps
