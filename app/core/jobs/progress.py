"""Progress of jobs: the phase and the remaining time of running ones, and how long workers have run each job.

The remaining time comes from the estimate at first, then more and more from the latest steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Row, func, select, text
from sqlalchemy.orm import Session

from app.core.estimates.estimate import Estimate
from app.core.jobs.state_machine import JobStatus
from app.core.jobs.tables import Job, JobAttempt
from app.core.spec.demonstrations import GradedDemonstrations

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
           EXTRACT(epoch FROM now() - attempt.training_at) AS ready_for,
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


AUTO_EVALUATIONS: Final = 10
"""During training, with `eval_interval` "auto"."""


class Phase(StrEnum):
    """What a running job does."""

    grading_demonstrations = "grading_demonstrations"
    """Selects the demonstrations that pass the grader, before the model is loaded."""
    loading_model = "loading_model"
    """Also fetches inputs, downloads a missing base model, and for `dpo` computes the reference log-probabilities."""
    evaluating_base_model = "evaluating_base_model"
    """Evaluates the held-out rows before the first step."""
    training = "training"
    saving_model = "saving_model"
    """Has made its last step."""


@dataclass(frozen=True)
class RunProgress:
    """The progress of a running job."""

    phase: Phase
    eta_seconds: float | None
    """Seconds to the end; None without an estimate and before two batches of steps."""


def run_progress(session: Session, jobs: Sequence[Job]) -> dict[str, RunProgress]:
    """Return job id -> progress, for those of the jobs that run."""
    running = {job.id: job for job in jobs if job.status == JobStatus.running}
    if not running:
        return {}
    rows = session.execute(_ATTEMPTS, {"ids": list(running), "steps": PACE_STEPS})
    return {row.job_id: RunProgress(_phase(running[row.job_id], row), _eta(running[row.job_id], row)) for row in rows}


def run_seconds(session: Session, jobs: Sequence[Job]) -> dict[str, float]:
    """Return job id -> seconds that workers have run the job, over all attempts. Jobs without an attempt are left out.

    The time in the queue, paused or between attempts does not count.
    """
    started = [job.id for job in jobs if job.attempt > 0]
    if not started:
        return {}
    duration = func.extract("epoch", func.coalesce(JobAttempt.ended_at, func.now()) - JobAttempt.started_at)
    totals = (
        select(JobAttempt.job_id, func.sum(duration)).where(JobAttempt.job_id.in_(started)).group_by(JobAttempt.job_id)
    )
    return {job_id: float(seconds) for job_id, seconds in session.execute(totals)}


def _phase(job: Job, attempt: Row[Any]) -> Phase:
    if attempt.training_at is None:
        grades = job.demonstrations
        is_grading = grades is not None and not GradedDemonstrations.model_validate(grades).is_complete
        return Phase.grading_demonstrations if is_grading else Phase.loading_model
    if attempt.last is None:
        is_unmeasured = job.step == 0 and "before" not in (job.evaluation or {})
        return Phase.evaluating_base_model if job.validation_file and is_unmeasured else Phase.training
    return Phase.training if job.total_steps is None or attempt.last < job.total_steps else Phase.saving_model


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
    baseline = _baseline_seconds(job, estimate)
    match _phase(job, attempt):
        case Phase.grading_demonstrations | Phase.loading_model if job.step == 0:
            evaluating = baseline
        case Phase.evaluating_base_model:
            evaluating = max(0.0, baseline - float(attempt.ready_for))
        case _:
            evaluating = 0.0
    return loading + evaluating + left * (estimate.seconds.expected - setup - baseline) / estimate.steps


def _baseline_seconds(job: Job, estimate: Estimate) -> float:
    """Return the estimated time of the evaluation before the first step, on the rows that select and that report."""
    if job.validation_file is None or estimate.parts is None:
        return 0.0
    interval = job.spec["settings"]["hyperparameters"].get("eval_interval", "auto")
    during = AUTO_EVALUATIONS if interval == "auto" else -(-estimate.steps // interval)
    # Selecting and reporting rows before the first step, selecting ones `during` times, reporting ones at the end.
    return estimate.parts["rest"] * 2 / (2 + during + 1)
