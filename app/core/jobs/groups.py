"""Stored groups of a job: sorted pages for clients, and groups joined with their rows for grading again."""

from collections.abc import Sequence
from enum import StrEnum
from itertools import islice
from typing import Any, Final

from sqlalchemy import select, text, tuple_
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest
from app.core.graders.regrade import StoredGroup
from app.core.jobs.tables import Group
from app.core.spec.json_lines import line_content
from app.core.spec.reports import GroupRecord
from app.core.spec.rows import parse_row
from app.core.storage.blobs import BlobStore

MAX_STEPS: Final = 10_000


class GroupOrder(StrEnum):
    """How groups are sorted."""

    step = "step"
    """By step and position."""
    advantage = "advantage"
    """Largest absolute advantage first."""
    best = "best"
    """Highest reward first."""
    worst = "worst"
    """Lowest reward first."""


_KEYS: Final = {
    GroupOrder.step: None,
    GroupOrder.advantage: "-max(abs(CAST(m->>'advantage' AS float8)))",
    GroupOrder.best: "-max(CAST(m->>'reward' AS float8))",
    GroupOrder.worst: "min(CAST(m->>'reward' AS float8))",
}
"""Sort key of a group over its members, smallest first. Groups without the number sort last."""


def _page_query(order: GroupOrder) -> str:
    # The key is an aggregate over the members, so it cannot come from an index: all groups of the range are read. The
    # page begins after the group `after`, whose own key is found among them.
    member_key = f"""coalesce((
            SELECT {_KEYS[order]} FROM jsonb_array_elements(record->'members') AS m
            WHERE CAST(:source AS text) IS NULL OR m->>'source' = :source
        ), CAST('Infinity' AS float8))"""  # noqa: S608 - of constants
    return f"""
    WITH matching AS (
        SELECT step, idx, record, {member_key if _KEYS[order] else "0"} AS key
        FROM groups
        WHERE job_id = :job_id AND step BETWEEN :first AND :last
          AND (CAST(:row AS int) IS NULL OR CAST(record->>'row' AS int) = :row)
          AND (CAST(:source AS text) IS NULL OR record->'members' @> jsonb_build_array(
              jsonb_build_object('source', CAST(:source AS text))))
    )
    SELECT step, idx, record FROM matching
    WHERE CAST(:after_step AS int) IS NULL
       OR (key, step, idx) > (SELECT key, step, idx FROM matching WHERE step = :after_step AND idx = :after_idx)
    ORDER BY key, step, idx LIMIT :limit
    """  # noqa: S608 - of constants


def page(
    session: Session,
    job_id: str,
    *,
    first: int,
    last: int,
    row: int | None = None,
    source: str | None,
    order: GroupOrder,
    after: str | None,
    limit: int,
) -> tuple[list[dict[str, Any]], bool]:
    """Return a page of the groups of the steps `first` to `last`, and whether more follow.

    Each group has its record's fields plus `id` and `step`. `row` selects the groups of one line of the training file.
    With `source`, only members of that source count for the order, and groups without one are left out. Raises
    `InvalidRequest` with `param` "after" if `after` is not a group in this list.
    """
    after_step, after_idx = _place(after)
    key = {"job_id": job_id, "first": first, "last": last, "row": row, "source": source}
    if after_step is not None:
        exists = text("SELECT EXISTS (SELECT FROM groups WHERE job_id = :job_id AND step = :step AND idx = :idx)")
        is_group = session.scalar(exists, {"job_id": job_id, "step": after_step, "idx": after_idx})
        if not is_group or not first <= after_step <= last:
            raise _unknown(after)
    place = {"after_step": after_step, "after_idx": after_idx, "limit": limit + 1}
    rows = session.execute(text(_page_query(order)), key | place).all()
    groups = [{"id": f"{row.step}-{row.idx}", "step": row.step} | row.record for row in rows[:limit]]
    return groups, len(rows) > limit


def steps(session: Session, job_id: str) -> list[int]:
    """Return the latest 10,000 steps that have groups, in order."""
    latest = text("SELECT DISTINCT step FROM groups WHERE job_id = :job_id ORDER BY step DESC LIMIT :limit")
    return list(session.scalars(latest, {"job_id": job_id, "limit": MAX_STEPS}))[::-1]


def _place(after: str | None) -> tuple[int | None, int | None]:
    if after is None:
        return None, None
    step, _, idx = after.partition("-")
    if not (step.isdecimal() and idx.isdecimal() and len(after) <= 21):
        raise _unknown(after)
    return int(step), int(idx)


def _unknown(after: str | None) -> InvalidRequest:
    return InvalidRequest(f"'after' is not the id of a group in this list: {after!r}.", param="after")


Chosen = tuple[int, GroupRecord]
"""A group and its step."""


def choose(session: Session, job_id: str, first: int, last: int, limit: int) -> tuple[int, list[Chosen]]:
    """Return the number of groups in the steps `first` to `last`, and at most `limit` of them, evenly spaced."""
    within = (Group.job_id == job_id, Group.step.between(first, last))
    places = session.execute(select(Group.step, Group.idx).where(*within).order_by(Group.step, Group.idx)).all()
    wanted = [places[number * len(places) // limit] for number in range(limit)] if len(places) > limit else places
    is_wanted = tuple_(Group.step, Group.idx).in_([(step, idx) for step, idx in wanted])
    rows = session.scalars(select(Group).where(Group.job_id == job_id, is_wanted).order_by(Group.step, Group.idx))
    return len(places), [(row.step, GroupRecord.model_validate(row.record)) for row in rows]


def with_items(store: BlobStore, blob: str, chosen: Sequence[Chosen]) -> list[StoredGroup]:
    """Join the groups with their rows of the training file `blob`, to grade them again. Raises `BlobMissing`."""
    wanted = {record.row for _, record in chosen}
    items: dict[int, dict[str, Any]] = {}
    with store.open(blob) as stream:
        for line, raw in enumerate(islice(stream, max(wanted, default=0)), start=1):
            if line in wanted:
                items[line] = parse_row(line_content(raw, line), line).item
    return [StoredGroup(f"{step}-{record.idx}", step, record, items[record.row]) for step, record in chosen]
