"""Metrics for charts: at most so many steps, chosen in Postgres so that no extreme is lost."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest
from app.core.jobs.tables import Metric

MAX_POINTS: Final = 5000
DEFAULT_POINTS: Final = 1500
_ROWS: Final = 1000

# Of each bucket the last step, and for every asked name the steps of its least and greatest value.
_CHOSEN: Final = text(
    """
    WITH bounded AS (
        SELECT step, values, ntile(:buckets) OVER (ORDER BY step) AS bucket
        FROM metrics WHERE job_id = :job_id AND step BETWEEN :first AND :last
    ), extremes AS (
        SELECT bucket, min(step) FILTER (WHERE rank_low = 1) AS low, min(step) FILTER (WHERE rank_high = 1) AS high
        FROM (
            SELECT bucket, name, step,
                   row_number() OVER (PARTITION BY bucket, name ORDER BY value, step) AS rank_low,
                   row_number() OVER (PARTITION BY bucket, name ORDER BY value DESC, step) AS rank_high
            FROM bounded, unnest(CAST(:names AS text[])) AS name,
                 LATERAL (SELECT CAST(values->>name AS float8) AS value) AS one
            WHERE value IS NOT NULL
        ) AS ranked
        GROUP BY bucket, name
    ), chosen AS (
        SELECT max(step) AS step FROM bounded GROUP BY bucket
        UNION SELECT low FROM extremes UNION SELECT high FROM extremes UNION SELECT min(step) FROM bounded
    )
    SELECT step FROM chosen WHERE step IS NOT NULL ORDER BY step
    """
)


def sampled(
    session: Session, job_id: str, *, names: Sequence[str], points: int, first: int, last: int
) -> tuple[list[Metric], bool]:
    """The values of the steps `first` to `last`, and whether some steps were left out to stay at `points` or below.

    What is left out is never the first or last step, nor the least or greatest value of one of `names` in its stretch.
    """
    mine = select(Metric).where(Metric.job_id == job_id, Metric.step.between(first, last)).order_by(Metric.step)
    count = session.scalar(select(func.count()).select_from(mine.order_by(None).subquery())) or 0
    if count <= points:
        return list(session.scalars(mine)), False
    buckets = max(1, (points - 1) // (2 * len(names) + 1))
    key = {"job_id": job_id, "first": first, "last": last, "names": list(names), "buckets": buckets}
    steps = list(session.scalars(_CHOSEN, key))
    return list(session.scalars(mine.where(Metric.step.in_(steps)))), True


def check_names(session: Session, job_id: str, names: Sequence[str], found: Sequence[Metric]) -> None:
    """Raises `InvalidRequest` for a name that the job has not measured, once it has measured anything."""
    known = {name for metric in found for name in metric.values}
    unknown = [name for name in names if name not in known]
    if not unknown or not found:
        return
    anywhere = text("SELECT EXISTS (SELECT FROM metrics WHERE job_id = :job_id AND jsonb_exists(values, :name))")
    for name in unknown:
        if not session.scalar(anywhere, {"job_id": job_id, "name": name}):
            listed = ", ".join(sorted(known))
            raise InvalidRequest(f"This job has no metric '{name}'; it has: {listed}.", param="names")


def steps_from(session: Session, job_id: str, first: int, last: int) -> list[tuple[int, dict[str, Any]]]:
    """The values of the next 1,000 steps from `first` on, up to `last`."""
    rows = select(Metric.step, Metric.values).where(Metric.job_id == job_id, Metric.step.between(first, last))
    return [(step, values) for step, values in session.execute(rows.order_by(Metric.step).limit(_ROWS))]


def all_names(session: Session, job_id: str) -> list[str]:
    """Every name that any step of the job has."""
    names = text(
        "SELECT DISTINCT name FROM metrics, jsonb_object_keys(values) AS name WHERE job_id = :job_id ORDER BY 1"
    )
    return list(session.scalars(names, {"job_id": job_id}))
