"""Reads what a job took from what it reported, in the transaction that ends it."""

from typing import Final

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from app.core.estimates import measurements
from app.core.estimates.cost import Seconds
from app.core.estimates.estimate import Asked
from app.core.estimates.measurements import Measured
from app.core.jobs.leases import Claim, update_owned
from app.core.jobs.tables import JobAttempt
from app.core.spec.hardware import Hardware

_REPORTED: Final = text(
    """
    SELECT count(*) AS steps,
           sum(CAST(values->>'gft/timing/rollout' AS float8)) AS rollout,
           sum(CAST(values->>'gft/timing/grading' AS float8)) AS grading,
           sum(CAST(values->>'gft/timing/update' AS float8)) AS update,
           sum(CAST(values->>'step_time' AS float8)) AS steps_seconds,
           max(CAST(values->>'gft/peak_memory_bytes' AS float8)) AS peak_memory,
           max(CAST(values->>'num_tokens' AS float8)) AS trained_tokens,
           avg(CAST(values->>'gft/prompt_length' AS float8)) AS prompt,
           avg(CAST(values->>'gft/expert/length' AS float8)) AS expert,
           avg(CAST(values->>'gft/teacher/length' AS float8)) AS teacher,
           avg(CAST(values->>'gft/self/length' AS float8)) AS own
    FROM metrics WHERE job_id = :job_id AND step > 0
    """
)


def keep(session: Session, claim: Claim, asked: Asked, hardware: Hardware) -> None:
    """Writes down what a job took that ends now, for later estimates. Raises `LostLease`."""
    if (found := measure(session, claim.job_id, asked, hardware)) is not None:
        update_owned(session, claim, measured=found.model_dump(mode="json"))


def measure(session: Session, job_id: str, asked: Asked, hardware: Hardware) -> Measured | None:
    """What the job took until now; None for one that reported no step."""
    found = session.execute(_REPORTED, {"job_id": job_id}).one()
    if found.steps == 0:
        return None
    took = func.coalesce(JobAttempt.ended_at, func.now()) - JobAttempt.started_at
    setup = JobAttempt.training_at - JobAttempt.started_at
    attempts = session.execute(
        select(took.label("took"), setup.label("setup")).where(JobAttempt.job_id == job_id)
    ).all()
    seconds = sum(one.took.total_seconds() for one in attempts)
    parts = None
    if len(attempts) == 1 and attempts[0].setup is not None and found.steps_seconds is not None:
        before = attempts[0].setup.total_seconds()
        rest = max(0.0, seconds - before - found.steps_seconds)
        parts = Seconds(before, found.rollout or 0.0, found.grading or 0.0, found.update or 0.0, rest)
    asked = measurements.shortened(asked, found.steps)
    means = {name: getattr(found, name) for name in ("prompt", "expert", "teacher", "own")}
    lengths = measurements.mean_lengths(asked, means)
    return Measured.of(
        asked,
        hardware,
        attempts=len(attempts),
        seconds=seconds,
        parts=parts,
        lengths=lengths,
        trained_tokens=found.trained_tokens,
        peak_memory=found.peak_memory,
    )
