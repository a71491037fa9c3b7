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
    FROM metrics, LATERAL jsonb_each_text(values) AS metric(name, written), LATERAL CAST(written AS float8) AS value
    WHERE job_id = :job_id AND step BETWEEN :first AND :last
    GROUP BY job_id, name, step / {BLOCK}
    ON CONFLICT (job_id, name, block) DO UPDATE
    SET low_step = excluded.low_step, low = excluded.low, high_step = excluded.high_step, high = excluded.high
"""  # noqa: S608 - of a constant
_ROLL_UP: Final = text(ROLL_UP)
_LATEST: Final = text("SELECT max(step) FROM metrics WHERE job_id = :job_id")

# All metric names of a job. The recursive part is a loose index scan: from each name it jumps to the next greater one
# in the primary key (job_id, name, block), so it reads one index entry a name instead of one a block. The steps after
# the last complete block (`tail`) have no roll-up yet; their names come from the metrics themselves.
_NAMES: Final = text(
    """
    WITH RECURSIVE rolled_up AS (
        (SELECT name FROM metric_rollups WHERE job_id = :job_id ORDER BY name LIMIT 1)
        UNION ALL
        SELECT (
            SELECT name FROM metric_rollups
            WHERE job_id = :job_id AND metric_rollups.name > rolled_up.name ORDER BY name LIMIT 1
        )
        FROM rolled_up WHERE name IS NOT NULL
    )
    SELECT name FROM rolled_up WHERE name IS NOT NULL
    UNION
    SELECT name FROM metrics, jsonb_object_keys(values) AS name
    WHERE job_id = :job_id AND step >= :tail
    ORDER BY 1
    """
)


def refresh_rollups(session: Session, job_id: str, first: int, last: int) -> None:
    """Roll up the complete blocks that hold the steps `first` to `last`, which the transaction has just written."""
    latest = session.scalar(_LATEST, {"job_id": job_id})
    begin = first // BLOCK * BLOCK
    # A block is complete once its last step exists, be it from this batch or from an earlier attempt.
    end = min(last // BLOCK, ((latest or 0) + 1) // BLOCK - 1) * BLOCK + BLOCK - 1
    if begin < end:
        session.execute(_ROLL_UP, {"job_id": job_id, "first": begin, "last": end})


def metric_names(session: Session, job_id: str) -> list[str]:
    """Return the names of all metrics of the job, sorted."""
    latest = session.scalar(_LATEST, {"job_id": job_id})
    tail = 0 if latest is None else (latest + 1) // BLOCK * BLOCK
    return list(session.scalars(_NAMES, {"job_id": job_id, "tail": tail}))


Point = tuple[int, dict[str, float | None]]
"""A step and its values by metric name."""

MAX_POINTS: Final = 5000
DEFAULT_POINTS: Final = 1500
_ROWS: Final = 1000

# For each requested name, the step of its least and the step of its greatest value in each stretch of `width` steps:
# a chart that draws these two keeps every spike, however few points it has.
#
#   candidates  one row for each block and name, from the roll-ups of the complete blocks in [begin, end); and one row
#               for each step and name, from the metrics before `begin` and from `end` on, where the range begins or
#               ends within a block. A step is like a block of one: its value is its least and its greatest.
#   extremes    the least and greatest value of each stretch: the extreme of a stretch is the extreme of its blocks
#
# The last SELECT joins both to get from a value back to its step. `min(step)` takes the first of several equal values.
# A stretch is a whole number of blocks (see `width`), so no block belongs to two stretches.
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
    SELECT min(low_step) FILTER (WHERE candidates.low = extremes.low) AS low,
           min(high_step) FILTER (WHERE candidates.high = extremes.high) AS high
    FROM candidates JOIN extremes ON candidates.name = extremes.name AND candidates.at / :width = stretch
    GROUP BY extremes.name, stretch
    """
)


def sampled(
    session: Session, job_id: str, *, names: Sequence[str], points: int, first: int, last: int
) -> tuple[list[Point], bool]:
    """Return the values of `names` (all metrics if empty) at steps from `first` to `last`, at most `points` steps.

    The second value is whether steps were left out. Never left out are the first and the last step, the last step of
    each stretch, and for each of `names` the steps of its least and greatest value in each stretch.
    """
    in_range = Metric.job_id == job_id, Metric.step.between(first, last)
    first, last = session.execute(select(func.min(Metric.step), func.max(Metric.step)).where(*in_range)).one()
    if first is None or last - first < points:  # steps have no gaps, so this is their number
        return _points(session, names, *in_range), False
    stretch = width(last - first + 1, points, len(names))
    steps = {first, last, *range(first // stretch * stretch + stretch - 1, last, stretch)}
    key = {"job_id": job_id, "first": first, "last": last, "names": list(names), "width": stretch}
    if names:
        for low, high in session.execute(_EXTREMES, key | _blocks(first, last, stretch)):
            steps |= {low, high}
    return _points(session, names, *in_range, Metric.step == func.any(sorted(steps))), True


def _points(session: Session, names: Sequence[str], *conditions: ColumnElement[bool]) -> list[Point]:
    """Return the steps in order. Postgres picks the named values: a row may hold a hundred others."""
    wanted = [Metric.values[name].as_float() for name in names] or [Metric.values]
    rows = session.execute(select(Metric.step, *wanted).where(*conditions).order_by(Metric.step))
    if not names:
        return [(step, values) for step, values in rows]
    return [(step, dict(zip(names, values, strict=True))) for step, *values in rows]


def width(count: int, points: int, names: int) -> int:
    """Return the steps in a stretch, so that a chart of `count` steps stays within `points`.

    A stretch contributes its last step and two extremes a name. A stretch of a block or more is a multiple of a block.
    """
    # Stretches begin at multiples of their width, so the range may touch one more than it would fill: hence `- 1`. The
    # other `- 1` is for the first step of the range, which is always kept.
    stretches = max(1, (points - 1) // (2 * names + 1) - 1)
    width = -(-count // stretches)
    return -(-width // BLOCK) * BLOCK if width >= BLOCK else width


def _blocks(first: int, last: int, width: int) -> dict[str, int]:
    """Return the range of steps to read from roll-ups: empty if stretches are narrower than a block."""
    size = BLOCK
    begin, end = -(-first // size) * size, (last + 1) // size * size
    if width < size or end <= begin:
        begin = end = first
    return {"size": size, "begin": begin, "end": end}


def check_names(session: Session, job_id: str, names: Sequence[str]) -> None:
    """Raise `InvalidRequest` for a metric that the job does not have, once it has any metrics."""
    existing = metric_names(session, job_id)
    for name in names if existing else ():
        if name not in existing:
            raise InvalidRequest(f"This job has no metric '{name}'; it has: {', '.join(existing)}.", param="names")


def steps_from(session: Session, job_id: str, first: int, last: int) -> list[tuple[int, dict[str, Any]]]:
    """Return the values of at most 1,000 steps from `first` on, up to `last`."""
    rows = select(Metric.step, Metric.values).where(Metric.job_id == job_id, Metric.step.between(first, last))
    return [(step, values) for step, values in session.execute(rows.order_by(Metric.step).limit(_ROWS))]
