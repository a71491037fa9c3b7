"""How many workers one Postgres can serve: the statements of workers in real time, from several processes at once."""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from sqlalchemy import text

from app.core import migrate
from app.core.accounts.tables import Project
from app.core.db import Database
from app.core.jobs import leases
from app.core.jobs.leases import Claim
from app.core.jobs.tables import Job
from app.core.settings import Settings
from app.local.postgres import EmbeddedPostgres
from bench.seed import spec
from worker.lease import POLL_SECONDS

QUEUED: Final = 10_000
RUNNING: Final = 1_000
PROJECTS: Final = 20
Call = Callable[[Database, Claim], None]
LEASE_SECONDS: Final = 86_400.0
"""Longer than the measurement."""

_JOBS: Final = text(
    """
    INSERT INTO jobs (id, project_id, status, spec, training_file, priority, epoch, crashes, step, created_at)
    SELECT 'ftjob-' || n, 'proj_' || n % :projects, 'queued', CAST(:spec AS jsonb), 'file', 0, 0, 0, 0,
           now() - make_interval(secs => :jobs - n)
    FROM generate_series(1, CAST(:jobs AS int)) AS n
    """
)


@dataclass(frozen=True)
class Rate:
    """Calls of one statement from several processes at once."""

    what: str
    processes: int
    per_second: float
    p50_ms: float
    p95_ms: float
    per_worker: float | None
    """Calls of one busy worker in a second; None for claims, which come with jobs."""

    @property
    def workers(self) -> int | None:
        """Busy workers whose calls of this kind alone would take all of it."""
        return None if self.per_worker is None else int(self.per_second / self.per_worker)


def measure(directory: Path, processes: tuple[int, ...], seconds: float) -> list[Rate]:
    """Measure polls, heartbeats and claims with 10,000 queued and 1,000 running jobs of 20 projects."""
    settings = Settings.model_validate({"DATABASE_URL": "postgresql://unused/unused"})
    kinds = {
        "poll for a stop request": (_poll, 1 / POLL_SECONDS),
        "heartbeat": (_beat, 1 / settings.heartbeat_seconds),
        "claim": (_claim, None),
    }
    rates = []
    with EmbeddedPostgres(directory) as postgres:
        migrate.upgrade(postgres.url)
        claims = _fill(postgres.url)
        for count in processes:
            with ProcessPoolExecutor(count, get_context("spawn")) as pool:
                list(pool.map(_ready, range(count)))
                for what, (call, per_worker) in kinds.items():
                    shares = [(postgres.url, seconds, claims[rank::count]) for rank in range(count)]
                    times = sorted(one for share in pool.map(partial(_repeat, call), shares) for one in share)
                    p50, p95 = (1000 * times[int(part * len(times))] for part in (0.5, 0.95))
                    rate = len(times) / seconds
                    rates.append(Rate(what, count, round(rate, 1), round(p50, 2), round(p95, 2), per_worker))
    return rates


def _fill(url: str) -> list[Claim]:
    database = Database(url)
    with database.transaction() as session:
        session.add_all(Project(id=f"proj_{number}", name=f"Project {number}") for number in range(PROJECTS))
        session.flush()
        values = {"spec": spec().model_dump_json(by_alias=True), "jobs": QUEUED + RUNNING, "projects": PROJECTS}
        session.execute(_JOBS, values)
    claims = []
    for number in range(RUNNING):
        with database.transaction() as session:
            claim = leases.claim(session, f"worker-{number}", LEASE_SECONDS)
        if claim is None:
            raise RuntimeError("no job is queued")
        claims.append(claim)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    database.dispose()
    return claims


def _ready(_rank: int) -> None:
    """Import everything in a process of the pool before the clock starts."""
    Job.__mapper__.configured  # noqa: B018


def _repeat(call: Call, share: tuple[str, float, list[Claim]]) -> list[float]:
    url, seconds, claims = share
    database = Database(url, pool_size=1)
    call(database, claims[0])
    times = []
    until = time.perf_counter() + seconds
    number = 0
    while (started := time.perf_counter()) < until:
        call(database, claims[number % len(claims)])
        times.append(time.perf_counter() - started)
        number += 1
    database.dispose()
    return times


def _poll(database: Database, claim: Claim) -> None:
    with database.reading() as session:
        leases.stop_requested(session, claim)


def _beat(database: Database, claim: Claim) -> None:
    with database.transaction() as session:
        leases.heartbeat(session, claim, LEASE_SECONDS)


def _claim(database: Database, _claim: Claim) -> None:
    with database.transaction() as session:
        if leases.claim(session, "worker", LEASE_SECONDS) is None:
            raise RuntimeError("the queue is empty; measure for a shorter time")
