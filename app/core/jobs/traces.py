"""The trace that a job is part of, from the request that created it to its last attempt: in the job's first event."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.core import tracing

_KEEP: Final = text(
    """
    UPDATE job_events SET data = coalesce(data, '{}') || jsonb_build_object('traceparent', CAST(:traceparent AS text))
    WHERE job_id = :job_id AND seq = 1
    """
)


def keep(session: Session, job_id: str) -> None:
    """In the transaction that creates the job; nothing where nothing is traced. `leases.claim` reads it."""
    if (traceparent := tracing.current()) is not None:
        session.execute(_KEEP, {"job_id": job_id, "traceparent": traceparent})
