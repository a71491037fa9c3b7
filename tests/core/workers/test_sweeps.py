"""The schedule of the sweeps: one of several workers runs each, and a changed clock does not stop them."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, update

from app.core.db import Database
from app.core.workers import sweeps
from app.core.workers.tables import Sweep

HOUR_SECONDS = 3600.0


def claim(database: Database, worker: str) -> bool:
    with database.transaction() as session:
        return sweeps.claim(session, "jobs", HOUR_SECONDS, worker)


def wait_seconds(database: Database) -> float:
    with database.reading() as session:
        return sweeps.seconds_until_due(session, "jobs", HOUR_SECONDS)


def move_last_run(database: Database, hours: int) -> None:
    with database.transaction() as session:
        session.execute(update(Sweep).values(started_at=func.now() + func.make_interval(0, 0, 0, 0, hours)))


def test_one_of_many_workers_gets_a_due_sweep(database: Database) -> None:
    assert wait_seconds(database) == 0
    with ThreadPoolExecutor(8) as workers:
        for _ in range(3):
            claims = list(workers.map(lambda worker: claim(database, f"w{worker}"), range(8)))
            assert sum(claims) == 1
            assert HOUR_SECONDS - 60 < wait_seconds(database) <= HOUR_SECONDS
            with database.reading() as session:
                assert session.get_one(Sweep, "jobs").worker == f"w{claims.index(True)}"
            move_last_run(database, -1)


@pytest.mark.parametrize("hours", [-2, 2])
def test_old_or_future_run_is_due(database: Database, hours: int) -> None:
    assert claim(database, "w1")
    move_last_run(database, hours)
    assert wait_seconds(database) == 0
    assert claim(database, "w2")
    assert not claim(database, "w3")
