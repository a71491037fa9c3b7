"""Invariants of the job state machine, checked over all jobs in the database. Reads only."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.core.storage.blobs import SUMS


@dataclass(frozen=True)
class Breach:
    """A violated invariant and the row that violates it."""

    invariant: str
    subject: str
    """Id of the job, model, checkpoint or file."""


# Each query returns nothing in a correct database. The LEFT JOINs keep jobs without attempts or steps: they count 0.
# Numbers 1 to n without a gap have the count n and the maximum n, because the primary keys allow no duplicates.
INVARIANTS: Final = {
    "attempts are 1, 2, 3, ... without a gap": """
        SELECT jobs.id FROM jobs LEFT JOIN job_attempts AS a ON a.job_id = jobs.id GROUP BY jobs.id
        HAVING count(a.epoch) <> jobs.epoch OR coalesce(max(a.epoch), 0) <> jobs.epoch
    """,
    "only the newest attempt of a running job is open": """
        SELECT jobs.id FROM jobs LEFT JOIN job_attempts AS a ON a.job_id = jobs.id AND a.outcome IS NULL
        GROUP BY jobs.id
        HAVING count(a.epoch) <> (jobs.status = 'running')::int OR max(a.epoch) <> jobs.epoch
    """,
    "a job is leased exactly while it runs": """
        SELECT id FROM jobs WHERE (status = 'running') <> (lease_owner IS NOT NULL AND lease_until IS NOT NULL)
    """,
    "a further worker belongs to the newest attempt of a running job": """
        SELECT jobs.id FROM jobs JOIN attempt_members AS member ON member.job_id = jobs.id AND member.ended_at IS NULL
        WHERE jobs.status <> 'running' OR member.epoch <> jobs.epoch
    """,
    "nothing happens after the end of a job": """
        SELECT id FROM jobs WHERE status IN ('succeeded', 'failed', 'cancelled') AND (
            EXISTS (SELECT FROM job_attempts WHERE job_id = jobs.id AND started_at > finished_at)
            OR EXISTS (SELECT FROM metrics WHERE job_id = jobs.id AND metrics.created_at > finished_at))
    """,
    "a job that a client stopped does not run on": """
        SELECT jobs.id FROM jobs CROSS JOIN LATERAL (
            SELECT action FROM audit_log WHERE object_id = jobs.id
                AND action IN ('job.cancel', 'job.pause', 'job.resume')
            ORDER BY seq DESC LIMIT 1
        ) AS asked
        WHERE (asked.action = 'job.cancel' AND status NOT IN ('cancelled', 'failed')
               AND (status <> 'running' OR stop_request IS DISTINCT FROM 'cancel'))
           OR (asked.action = 'job.pause' AND status NOT IN ('paused', 'succeeded', 'cancelled', 'failed')
               AND (status <> 'running' OR stop_request IS NULL OR stop_request NOT IN ('pause', 'cancel')))
    """,
    "events are numbered 1, 2, 3, ... without a gap": """
        SELECT job_id FROM job_events GROUP BY job_id HAVING count(*) <> max(seq) OR min(seq) <> 1
    """,
    "every step has its metrics": """
        SELECT jobs.id FROM jobs LEFT JOIN metrics ON metrics.job_id = jobs.id AND metrics.step > 0
        GROUP BY jobs.id HAVING count(metrics.step) <> jobs.step OR coalesce(max(metrics.step), 0) <> jobs.step
    """,
    "a job starts after its control has ended": """
        SELECT jobs.id FROM jobs JOIN jobs AS control ON control.control_of = jobs.id
        WHERE jobs.epoch > 0 AND control.status NOT IN ('succeeded', 'failed', 'cancelled')
    """,
    "a job that succeeded is compared with its control": """
        SELECT id FROM jobs
        WHERE status = 'succeeded' AND spec->>'control' IS NOT NULL AND control_comparison IS NULL
    """,
}
"""Invariant -> a query that returns the ids of the jobs that violate it."""
BLOBS: Final = {
    "the files of a model are stored": f"SELECT id, blob || '/{SUMS}' AS key FROM models",  # noqa: S608 - constant
    "the files of a checkpoint are stored": f"SELECT id, blob || '/{SUMS}' AS key FROM checkpoints",  # noqa: S608
    "a file is stored": "SELECT id, blob AS key FROM files",
    "the archive of an export is stored": "SELECT id, blob AS key FROM exports WHERE blob IS NOT NULL",
    "the rows of a converted file are stored": "SELECT id, rows_blob AS key FROM files WHERE rows_blob IS NOT NULL",
}
"""Invariant -> a query that returns ids and the blob keys that must exist."""


# One statement for all: one round trip, and one snapshot.
_ALL: Final = text(
    " UNION ALL ".join(
        f"SELECT {number} AS number, id FROM ({query}) AS found (id)"  # noqa: S608 - constant
        for number, query in enumerate(INVARIANTS.values())
    )
)


def breaches(session: Session, is_stored: Callable[[str], bool]) -> list[Breach]:
    """Return every breach in the whole database. `is_stored` returns whether the blob store holds a key.

    While workers are running, pass a session whose transaction sees one snapshot.
    """
    names = list(INVARIANTS)
    result = [Breach(names[row.number], row.id) for row in session.execute(_ALL)]
    for invariant, query in BLOBS.items():
        result += [Breach(invariant, row.id) for row in session.execute(text(query)) if not is_stored(row.key)]
    return result
