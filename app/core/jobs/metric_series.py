"""Metrics for charts: at most so many steps, chosen in Postgres so that no extreme is lost."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest
from app.core.jobs import rollups
from app.core.jobs.tables import Metric

Point = tuple[int, dict[str, float | None]]
"""A step and values of it, by name."""

MAX_POINTS: Final = 5000
DEFAULT_POINTS: Final = 1500
_ROWS: Final = 1000

# For every asked name the steps of its least and greatest value in each stretch of `width` steps. The whole blocks from
# `begin` to before `end` are read from their roll-ups, what is before and behind them step by step.
_EXTREMES: Final = text(
    """
    WITH candidates AS MATERIALIZED (
        SELECT name, block * :size AS at, low_step, low, high_step, high
        FROM metric_rollups
        WHERE job_id = :job_id AND name = ANY(:names) AND block >= :begin / :size AND block < :end / :size
              AND low_step IS NOT NULL
        UNION ALL
        SELECT name, step, step, value, step, value
        FROM (SELECT step, values FROM metrics WHERE job_id = :job_id AND step >= :first AND step < :begin
              UNION ALL
              SELECT step, values FROM metrics WHERE job_id = :job_id AND step >= :end AND step <= :last) AS rest,
             unnest(CAST(:names AS text[])) AS name, LATERAL CAST(values->>name AS float8) AS value
        WHERE value IS NOT NULL
    ), extremes AS (
        SELECT name, at / :width AS stretch, min(low) AS low, max(high) AS high FROM candidates GROUP BY name, stretch
    )
    SELECT min(low_step) FILTER (WHERE one.low = extremes.low) AS low,
           min(high_step) FILTER (WHERE one.high = extremes.high) AS high
    FROM candidates AS one JOIN extremes ON one.name = extremes.name AND one.at / :width = stretch
    GROUP BY extremes.name, stretch
    """
)


def sampled(
    session: Session, job_id: str, *, names: Sequence[str], points: int, first: int, last: int
) -> tuple[list[Point], bool]:
    """The values of the steps `first` to `last`, and whether some steps were left out to stay at `points` or below.

    The values are those of `names`, all if there are none.

    What is left out is never the first or last step, nor the least or greatest value of one of `names` in its stretch.
    """
    mine = Metric.job_id == job_id, Metric.step.between(first, last)
    first, last = session.execute(select(func.min(Metric.step), func.max(Metric.step)).where(*mine)).one()
    if first is None or last - first < points:  # every step is there, so this counts them
        return _points(session, names, *mine), False
    stretch = width(last - first + 1, points, len(names))
    steps = {first, last, *range(first // stretch * stretch + stretch - 1, last, stretch)}
    key = {"job_id": job_id, "first": first, "last": last, "names": list(names), "width": stretch}
    if names:
        for low, high in session.execute(_EXTREMES, key | _blocks(first, last, stretch)):
            steps |= {low, high}
    return _points(session, names, *mine, Metric.step == func.any(sorted(steps))), True


def _points(session: Session, names: Sequence[str], *conditions: ColumnElement[bool]) -> list[Point]:
    """The steps in order. Values that are asked for by name are picked in Postgres: a row may have a hundred others."""
    wanted = [Metric.values[name].as_float() for name in names] or [Metric.values]
    rows = session.execute(select(Metric.step, *wanted).where(*conditions).order_by(Metric.step))
    if not names:
        return [(step, values) for step, values in rows]
    return [(step, dict(zip(names, values, strict=True))) for step, *values in rows]


def width(count: int, points: int, names: int) -> int:
    """Steps a stretch, so that the ends of all stretches and two extremes a name and stretch are at most `points`.

    Whole blocks where a stretch holds at least one.
    """
    # Stretches begin at multiples of their width: one more than fits may be touched. The first step comes on top.
    stretches = max(1, (points - 1) // (2 * names + 1) - 1)
    width = -(-count // stretches)
    return -(-width // rollups.BLOCK) * rollups.BLOCK if width >= rollups.BLOCK else width


def _blocks(first: int, last: int, width: int) -> dict[str, int]:
    """Where the whole blocks between two steps begin and end; none (nowhere) where stretches are narrower than one."""
    size = rollups.BLOCK
    begin, end = -(-first // size) * size, (last + 1) // size * size
    if width < size or end <= begin:
        begin = end = first
    return {"size": size, "begin": begin, "end": end}


def check_names(session: Session, job_id: str, names: Sequence[str]) -> None:
    """Raises `InvalidRequest` for a name that the job has not measured, once it has measured anything."""
    known = rollups.names(session, job_id)
    for name in names if known else ():
        if name not in known:
            raise InvalidRequest(f"This job has no metric '{name}'; it has: {', '.join(known)}.", param="names")


def steps_from(session: Session, job_id: str, first: int, last: int) -> list[tuple[int, dict[str, Any]]]:
    """The values of the next 1,000 steps from `first` on, up to `last`."""
    rows = select(Metric.step, Metric.values).where(Metric.job_id == job_id, Metric.step.between(first, last))
    return [(step, values) for step, values in session.execute(rows.order_by(Metric.step).limit(_ROWS))]
