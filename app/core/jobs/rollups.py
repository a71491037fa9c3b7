"""Least and greatest value of each metric in blocks of steps, so that a chart of a million steps is read from few rows.

Written together with the metrics, in their transaction. A block is there once its last step is; what is written again
(an attempt that resumed) is rolled up again.
"""

from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session

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


def refresh(session: Session, job_id: str, first: int, last: int) -> None:
    """Rolls up the whole blocks that the steps `first` to `last`, just written, are in."""
    latest = session.scalar(_LATEST, {"job_id": job_id})
    begin = first // BLOCK * BLOCK
    # Of the blocks touched those count whose last step is there, be it from this batch or an earlier attempt.
    end = min(last // BLOCK, ((latest or 0) + 1) // BLOCK - 1) * BLOCK + BLOCK - 1
    if begin < end:
        session.execute(_ROLL_UP, {"job_id": job_id, "first": begin, "last": end})


def names(session: Session, job_id: str) -> list[str]:
    """Every name that any step of the job has, in order."""
    latest = session.scalar(_LATEST, {"job_id": job_id})
    tail = 0 if latest is None else (latest + 1) // BLOCK * BLOCK
    return list(session.scalars(_NAMES, {"job_id": job_id, "tail": tail}))
