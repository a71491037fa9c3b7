"""Fills a database with the jobs and metrics of a busy installation. Uses SQL, because only reads are measured."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text

from app.core.accounts import api_keys, scopes
from app.core.accounts.tables import Project
from app.core.db import Database
from app.core.jobs import leases, metric_series
from app.core.jobs.journal import Journal, JournalEntry
from app.core.spec.job import GroupMethod, JobSpec, MethodType
from app.core.spec.reports import Started

NAMES: Final = (
    *("loss", "grad_norm", "learning_rate", "num_tokens", "step_time", "reward", "reward_std", "frac_reward_zero_std"),
    *("entropy", "completions/mean_length", "completions/clipped_ratio", "gft/rectified_frac", "tokens_per_second"),
    *(f"gft/{what}/{source}" for what in ("reward", "advantage", "nll") for source in ("expert", "teacher", "self")),
)
"""Roughly the metrics of one step of a gft job."""
LONG: Final = 1_000_000
"""Number of steps of the longest job, and so of points in its series."""
SHORT: Final = 100
"""Number of steps of each running job."""
CHUNK: Final = 50_000
LEASE_SECONDS: Final = 86_400.0
"""Longer than the benchmark."""

# Every sixth job is queued; the others have ended, with every final status.
_JOBS: Final = text(
    """
    INSERT INTO jobs (id, project_id, status, spec, training_file, priority, epoch, crashes, step, total_steps,
                      fine_tuned_model, error, created_at, started_at, finished_at)
    SELECT 'ftjob-' || md5(n::text), 'proj_bench', status, CAST(:spec AS jsonb), 'file-bench', 0,
           CASE WHEN status = 'queued' THEN 0 ELSE 1 END, 0, CASE WHEN status = 'queued' THEN 0 ELSE 100 END, 100,
           CASE WHEN status = 'succeeded' THEN 'ft:tiny:bench::' || n END,
           CASE WHEN status = 'failed' THEN '{"code": "crashed", "message": "It crashed.", "param": null}'::jsonb END,
           now() - make_interval(secs => :jobs - n), now() - make_interval(secs => :jobs - n),
           CASE WHEN status <> 'queued' THEN now() END
    FROM generate_series(1, CAST(:jobs AS int)) AS n,
         LATERAL (SELECT (ARRAY['queued', 'succeeded', 'succeeded', 'succeeded', 'failed', 'cancelled'])[n % 6 + 1]
                  AS status) AS choice
    """
)
_EVENTS: Final = text(
    """
    INSERT INTO job_events (job_id, seq, id, level, type, message)
    SELECT id, seq, 'ftevent-' || md5(id || seq), 'info', 'message', 'Step ' || seq
    FROM jobs, generate_series(1, 5) AS seq
    """
)
_METRICS: Final = text(
    """
    INSERT INTO metrics (job_id, step, values)
    SELECT :job_id, step, (SELECT jsonb_object_agg(name, sin(step / 1000.0 + length(name)) + random())
                           FROM unnest(CAST(:names AS text[])) AS name WHERE step > 0)
    FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS step
    """
)


@dataclass(frozen=True)
class SeededData:
    """Ids and credentials of the seeded data, for requests."""

    api_key: str
    jobs: list[str]
    """Ids of all jobs, of every status, in random order."""
    unfinished: list[str]
    """Ids of queued and running jobs, which clients poll."""
    long_job: str
    running: list[leases.Claim]


def spec() -> JobSpec:
    """The spec of a typical gft job."""
    grader = {"type": "math", "name": "answer", "reference": "{{item.reference_answer}}"}
    settings = GroupMethod.model_validate({"grader": grader})
    return JobSpec(model="tiny", method=MethodType.gft, settings=settings, seed=7, metadata={"team": "bench"})


def seed(database: Database, jobs: int, running: int, show_progress: Callable[[str], None]) -> SeededData:
    """Create `jobs` jobs of one project: `running` of them run and have some steps, one has a million steps."""
    show_progress(f"{jobs:,} jobs")
    key = seed_jobs(database, jobs)
    claims = [_start(database) for _ in range(running)]
    with database.transaction() as session:
        done = text("SELECT id FROM jobs WHERE status = 'succeeded' ORDER BY id LIMIT 1")
        long_job: str = session.execute(done).scalar_one()
        ids = list(session.scalars(text("SELECT id FROM jobs ORDER BY md5(id)")))
        unfinished = text("SELECT id FROM jobs WHERE status IN ('queued', 'running') ORDER BY md5(id)")
        unfinished_ids = list(session.scalars(unfinished))
    for first in range(1, LONG, CHUNK):
        show_progress(f"{first:,} of {LONG:,} steps")
        with database.transaction() as session:
            values = {"job_id": long_job, "names": list(NAMES), "first": first, "last": first + CHUNK - 1}
            session.execute(_METRICS, values)
            metric_series.refresh_rollups(session, long_job, first, first + CHUNK - 1)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return SeededData(key, ids, unfinished_ids, long_job, claims)


def seed_jobs(database: Database, jobs: int) -> str:
    """Create the project `bench` with `jobs` jobs; return its key."""
    with database.transaction() as session:
        session.add(Project(id="proj_bench", name="bench", max_requests_per_minute=1_000_000, max_queued_jobs=100_000))
        session.flush()
        key = api_keys.create_key(session, "proj_bench", "bench", granted=scopes.DEFAULT).text
        session.execute(_JOBS, {"spec": json.dumps(spec().model_dump(mode="json", by_alias=True)), "jobs": jobs})
        session.execute(_EVENTS)
    return key


def _start(database: Database) -> leases.Claim:
    """Claim a job as a worker and add some steps."""
    with database.transaction() as session:
        claim = leases.claim(session, "bench", LEASE_SECONDS)
        if claim is None:
            raise RuntimeError("no job is queued")
        values = {"job_id": claim.job_id, "names": list(NAMES), "first": 1, "last": SHORT}
        session.execute(_METRICS, values)
    started = Started(
        total_steps=1000,
        resumed_from_step=0,
        batch_size=8,
        n_epochs=1,
        learning_rate=1e-5,
        learning_rate_multiplier=1.0,
    )
    Journal(database, claim).record([JournalEntry(started)])
    return claim
