"""A small simulated cluster: every job ends, and the scheduler's invariants hold."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.core.db import Database
from app.core.jobs.invariants import breaches
from app.core.settings import Settings
from bench.simulate import report
from bench.simulate.clock import moment, virtual_database
from bench.simulate.cluster import Simulation
from bench.simulate.workload import Fleet, plan

FLEET = Fleet({1: 6, 8: 3}, failures_per_day=24.0)
"""Each worker fails once an hour, so that a short simulation has many failures."""
DOCS = Path(__file__).parents[2] / "docs"
SETTINGS = Settings.model_validate({"DATABASE_URL": "postgresql://unused/unused", "lease_seconds": 600.0})


@pytest.fixture(scope="module")
def database(short_dir: Path) -> Iterator[Database]:
    with virtual_database(short_dir / "virtual") as database:
        yield database


def test_all_jobs_end_in_spite_of_failures(database: Database) -> None:
    planned = plan(24, FLEET, projects=3, load=1.5, seed=2)
    jobs = [replace(job, seconds=min(job.seconds, 1800.0), created=job.created / 10) for job in planned]
    jobs[::8] = [replace(job, gpus=8, nodes=2) for job in jobs[::8]]
    measured = Simulation(database, FLEET, jobs, SETTINGS, 3).run(print)
    assert measured.succeeded + measured.failed == len(jobs)
    assert measured.failures
    assert measured.useful == pytest.approx(sum(job.work for job in jobs)) or measured.failed
    with moment(database, 3600 * measured.hours) as session:
        broken = {breach.invariant for breach in breaches(session, lambda _blob: True)}
    assert broken <= {"every step has its metrics"}  # nothing trains, so there are none
    found = report.summary(FLEET, jobs, measured, 3)
    assert sum(one["jobs"] for one in found["waits"].values()) == len(jobs)


def test_page_shows_the_stored_results() -> None:
    """Nothing in docs/scale.md and its plots is written by hand."""
    for name, content in report.files(report.read()).items():
        assert (DOCS / name).read_text() == content, f"run `python -m bench.simulate --page`: docs/{name} differs"
