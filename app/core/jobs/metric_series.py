"""Metric series for charts, and the roll-ups that make them cheap to read.

A series has at most the requested number of points. Postgres chooses the steps so that no extreme is lost.

A roll-up holds the least and the greatest value of one metric in a block of steps, so that a chart of a million steps
needs few rows. Roll-ups are written in the same transaction as the metrics. A block gets its roll-up when its last step
is written; when a resumed attempt writes steps again, their blocks are rolled up again.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest
from app.core.jobs.tables import Metric

BLOCK: Final = 50
"""Steps: block `n` holds the steps `n * BLOCK` to `n * BLOCK + BLOCK - 1`."""

ROLL_UP: Final = f"""
    INSERT INTO metric_rollups (job_id, name, block, low_step, low, high_step, high)
    SELECT job_id, name, step / {BLOCK},
           (array_agg(step ORDER BY value, step) FILTER (WHERE value IS NOT NULL))[1], min(value),
           (array_agg(step ORDER BY value DESC, step) FILTER (WHERE value IS NOT NULL))[1], max(value)
    FROM metrics, LATERAL jsonb_each_text(values) AS one(name, written), LATERAL CAST(written AS float8) AS value
    WHERE job_id = :job_id AND step BETWEEN :first AND :last
    GROUP BY job_id, name, step / {BLOCK}
    ON CONFLICT (job_id, name, block) DO UPDATE
    SET low_step = excluded.low_step, low = excluded.low, high_step = excluded.high_step, high = excluded.high
"""  # noqa: S608 - of a constant
_ROLL_UP: Final = text(ROLL_UP)
_LATEST: Final = text("SELECT max(step) FROM metrics WHERE job_id = :job_id")

# A loose index scan: one look at the index for each name, however many blocks there are.
_NAMES: Final = text(
    """
    WITH RECURSIVE found AS (
        (SELECT name FROM metric_rollups WHERE job_id = :job_id ORDER BY name LIMIT 1)
        UNION ALL
        SELECT (
            SELECT name FROM metric_rollups
            WHERE job_id = :job_id AND metric_rollups.name > found.name ORDER BY name LIMIT 1
        )
        FROM found WHERE name IS NOT NULL
    )
    SELECT name FROM found WHERE name IS NOT NULL
    UNION
    SELECT name FROM metrics, jsonb_object_keys(values) AS name
    WHERE job_id = :job_id AND step >= :tail
    ORDER BY 1
    """
)


def refresh_rollups(session: Session, job_id: str, first: int, last: int) -> None:
    """Rolls up the whole blocks that the steps `first` to `last`, just written, are in."""
    latest = session.scalar(_LATEST, {"job_id": job_id})
    begin = first // BLOCK * BLOCK
    # Of the blocks touched those count whose last step is there, be it from this batch or an earlier attempt.
    end = min(last // BLOCK, ((latest or 0) + 1) // BLOCK - 1) * BLOCK + BLOCK - 1
    if begin < end:
        session.execute(_ROLL_UP, {"job_id": job_id, "first": begin, "last": end})


def metric_names(session: Session, job_id: str) -> list[str]:
    """Every name that any step of the job has, in order."""
    latest = session.scalar(_LATEST, {"job_id": job_id})
    tail = 0 if latest is None else (latest + 1) // BLOCK * BLOCK
    return list(session.scalars(_NAMES, {"job_id": job_id, "tail": tail}))


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
    return -(-width // BLOCK) * BLOCK if width >= BLOCK else width


def _blocks(first: int, last: int, width: int) -> dict[str, int]:
    """Where the whole blocks between two steps begin and end; none (nowhere) where stretches are narrower than one."""
    size = BLOCK
    begin, end = -(-first // size) * size, (last + 1) // size * size
    if width < size or end <= begin:
        begin = end = first
    return {"size": size, "begin": begin, "end": end}


def check_names(session: Session, job_id: str, names: Sequence[str]) -> None:
    """Raises `InvalidRequest` for a name that the job has not measured, once it has measured anything."""
    known = metric_names(session, job_id)
    for name in names if known else ():
        if name not in known:
            raise InvalidRequest(f"This job has no metric '{name}'; it has: {', '.join(known)}.", param="names")


def steps_from(session: Session, job_id: str, first: int, last: int) -> list[tuple[int, dict[str, Any]]]:
    """The values of the next 1,000 steps from `first` on, up to `last`."""
    rows = select(Metric.step, Metric.values).where(Metric.job_id == job_id, Metric.step.between(first, last))
    return [(step, values) for step, values in session.execute(rows.order_by(Metric.step).limit(_ROWS))]
