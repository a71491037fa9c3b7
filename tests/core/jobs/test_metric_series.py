"""Roll-ups agree with the metrics in whatever order and batches these were written."""

import random

import pytest
from sqlalchemy import text

from app.core.db import Database
from app.core.jobs import metric_series
from app.core.jobs.journal import Journal
from app.core.jobs.leases import Claim
from app.core.spec.reports import Metrics

SIZE = metric_series.BLOCK


def write(database: Database, claim: Claim, first: int, last: int, value: float = 0.0) -> None:
    reports = [Metrics(step=step, values={"loss": value + step % 7}) for step in range(first, last + 1)]
    Journal(database, claim).metrics(reports)


def blocks(database: Database, name: str = "loss") -> dict[int, tuple[float | None, ...]]:
    rows = text("SELECT block, low_step, low, high_step, high FROM metric_rollups WHERE name = :name")
    with database.transaction() as session:
        return {row.block: tuple(row)[1:] for row in session.execute(rows, {"name": name})}


def test_roll_up_follows_last_step_of_block(database: Database, claim: Claim) -> None:
    write(database, claim, 0, SIZE - 2)
    assert blocks(database) == {}
    write(database, claim, SIZE - 1, SIZE - 1)
    assert blocks(database) == {0: (0, 0.0, 6, 6.0)}
    write(database, claim, SIZE, 3 * SIZE)
    assert set(blocks(database)) == {0, 1, 2}


def test_rewritten_steps_are_rolled_up_again(database: Database, claim: Claim) -> None:
    write(database, claim, 0, 2 * SIZE)
    write(database, claim, SIZE + 3, SIZE + 5, value=100.0)  # the block's last step is from the attempt before
    low_step, low, high_step, high = blocks(database)[1]
    assert (high_step, high) == (SIZE + 5, 100.0 + (SIZE + 5) % 7)
    assert (low_step, low) == (56, 0.0)
    assert blocks(database)[0] == (0, 0.0, 6, 6.0)


def test_metric_names_include_rare_and_null(database: Database, claim: Claim) -> None:
    journal = Journal(database, claim)
    for first in range(0, 2 * SIZE, SIZE):
        journal.metrics(
            [
                Metrics(step=step, values={"loss": 1.0, "nothing": None} | ({"eval/reward": 1.0} if step == 3 else {}))
                for step in range(first, first + SIZE)
            ]
        )
    journal.metrics([Metrics(step=2 * SIZE, values={"loss": 1.0, "new": 1.0})])
    with database.transaction() as session:
        assert metric_series.metric_names(session, claim.job_id) == ["eval/reward", "loss", "new", "nothing"]
    assert blocks(database, "nothing") == {0: (None,) * 4, 1: (None,) * 4}


@pytest.mark.parametrize("points", [11, 40, 300])
@pytest.mark.slow
def test_roll_ups_keep_all_extremes(database: Database, claim: Claim, points: int) -> None:
    """Of every stretch the extremes and the last step, also where the range begins and ends within blocks."""
    chance = random.Random(points)  # noqa: S311 - data
    first, last = 37, 4_711
    values = {step: chance.gauss(0, 1) for step in range(1, 5_001)}
    Journal(database, claim).metrics([Metrics(step=step, values={"loss": value}) for step, value in values.items()])
    with database.transaction() as session:
        found, is_sampled = metric_series.sampled(
            session, claim.job_id, names=["loss"], points=points, first=first, last=last
        )
    steps = [step for step, _ in found]
    assert is_sampled
    assert len(steps) <= points
    width = metric_series.width(last - first + 1, points, 1)
    for start in range(first // width * width, last + 1, width):
        stretch = range(max(first, start), min(last, start + width - 1) + 1)
        assert {min(stretch, key=values.__getitem__), max(stretch, key=values.__getitem__), stretch[-1]} <= set(steps)
    assert {step: one["loss"] for step, one in found} == {step: values[step] for step in steps}
