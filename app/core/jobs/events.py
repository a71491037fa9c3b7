"""Appends to a job's events. `seq` is dense because the caller's transaction already holds the job's row."""

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sqlalchemy import text as sql
from sqlalchemy.orm import Session

from app.core import ids

Level = Literal["info", "warn", "error"]

_APPEND: Final = sql(
    """
    INSERT INTO job_events (job_id, seq, id, level, type, message, data)
    SELECT owner.id,
           (SELECT coalesce(max(seq), 0) FROM job_events WHERE job_id = owner.id)
               + row_number() OVER (ORDER BY e.ord),
           e.id, e.level, e.type, e.message, e.data
    FROM jobs AS owner,
         jsonb_to_recordset(CAST(:events AS jsonb))
             AS e(ord int, id text, level text, type text, message text, data jsonb)
    WHERE owner.id = :job_id AND NOT EXISTS (SELECT FROM job_events AS known WHERE known.id = e.id)
    """
)


_SUSPICIOUS: Final = re.compile(r"\\u(?:0000|d[89a-f])")
"""NUL and surrogates, halves or whole pairs, as `json.dumps` writes them."""


@dataclass(frozen=True)
class Event:
    """A sentence for people. Its id is made at once, so that a repeated write cannot double it."""

    message: str
    level: Level = "info"
    type: Literal["message", "metrics"] = "message"
    data: dict[str, Any] | None = None
    id: str = field(default_factory=ids.event_id)


def append(session: Session, job_id: str, *events: Event) -> None:
    """Adds events in order; those whose id is there already are left out.

    The caller holds the job's row (by a guarded UPDATE or `leases.hold`): nobody else then picks its `seq`.
    """
    if not events:
        return
    rows = [{"ord": number, **vars(event)} for number, event in enumerate(events)]
    session.execute(_APPEND, {"job_id": job_id, "events": dump(rows)})


def dump(value: Any) -> str:
    """JSON that jsonb takes: cleaned where there is anything to clean, which the text tells faster than a walk does."""
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:  # NaN or an infinity
        return json.dumps(clean(value), allow_nan=False)
    return json.dumps(clean(value)) if _SUSPICIOUS.search(text) else text


def clean(value: Any) -> Any:
    """`value` as Postgres takes it, at every depth: NaN and infinities as None, NUL and half surrogate pairs replaced.

    The one place for it: rows and models may hold and write any character, people see a stand-in for these.
    """
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value
