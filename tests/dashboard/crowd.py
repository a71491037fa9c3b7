"""Writes data like that of an old installation into Postgres: thousands of jobs and runs of 50,000 steps."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import text, update
from sqlalchemy.orm import Session

from app.core.accounts.audit import Actor
from app.core.jobs import lifecycle, metric_series
from app.core.jobs.tables import Job
from tests.setup_jobs import make_job, supervised

JOBS: Final = 10_000
STEPS: Final = 50_000
OTHER_STEPS: Final = 5_000
"""Still several times as many as a chart has points."""
RUNS: Final = 8

# Copies of a job with other ids, ages and names; the ids are as long as real ones.
_COPIES: Final = text(
    """
    INSERT INTO jobs
    SELECT (jsonb_populate_record(one, jsonb_build_object(
        'id', 'ftjob-' || lpad(n::text, 24, '0'), 'created_at', one.created_at - n * interval '1 minute',
        'spec', one.spec || jsonb_build_object('suffix', 'run-' || n)))).*
    FROM jobs AS one, generate_series(1, :count) AS n WHERE one.id = :id
    """
)
_METRICS: Final = text(
    """
    INSERT INTO metrics (job_id, step, values)
    SELECT :id, n, jsonb_build_object(
        'reward', 1 - exp(-n / (8000.0 + 2000 * :run)) + 0.2 * sin(n * 0.7 + :run) * exp(-n / 30000.0),
        'loss', sin(n * 0.013 + :run) / (1 + n / 5000.0), 'entropy', 3 * exp(-n / 20000.0) + 0.1 * cos(n * 0.3),
        'grad_norm', CASE WHEN n = 31337 THEN 99 ELSE 1 + 0.5 * sin(n) END)
    FROM generate_series(1, :steps) AS n
    """
)


@dataclass(frozen=True)
class Crowd:
    """The ids of the runs with metrics."""

    runs: list[str]


def crowd(session: Session, project_id: str) -> Crowd:
    """Creates `JOBS` cancelled jobs, which no worker claims.

    The newest has `STEPS` steps, and the next ones up to `RUNS` have `OTHER_STEPS`.
    """
    template = make_job(session, project_id, supervised().model_copy(update={"suffix": "run-0"}))
    lifecycle.cancel(session, Actor(project_id), template.id)
    session.flush()
    session.execute(_COPIES, {"id": template.id, "count": JOBS - 1})
    runs = [template.id, *(f"ftjob-{number:024}" for number in range(1, RUNS))]
    for number, job_id in enumerate(runs):
        steps = OTHER_STEPS if number else STEPS
        session.execute(_METRICS, {"id": job_id, "run": number, "steps": steps})
        metric_series.refresh_rollups(session, job_id, 1, steps)
        session.execute(update(Job).where(Job.id == job_id).values(step=steps, total_steps=steps))
    session.execute(text("ANALYZE metrics"))
    return Crowd(runs)
