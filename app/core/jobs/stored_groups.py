"""The groups that training kept, with the rows that they answer: what a grader needs to grade them again."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from app.core.files.reading import line_content
from app.core.graders.regrade import StoredGroup
from app.core.jobs.tables import Group
from app.core.spec.reports import GroupRecord
from app.core.spec.rows import parse_row
from app.core.storage.blobs import BlobStore

Chosen = tuple[int, GroupRecord]
"""A group and its step."""


def choose(session: Session, job_id: str, first: int, last: int, limit: int) -> tuple[int, list[Chosen]]:
    """How many groups the steps `first` to `last` have, and `limit` of them at most, evenly from all over."""
    within = (Group.job_id == job_id, Group.step.between(first, last))
    places = session.execute(select(Group.step, Group.idx).where(*within).order_by(Group.step, Group.idx)).all()
    wanted = [places[number * len(places) // limit] for number in range(limit)] if len(places) > limit else places
    of_them = tuple_(Group.step, Group.idx).in_([(step, idx) for step, idx in wanted])
    rows = session.scalars(select(Group).where(Group.job_id == job_id, of_them).order_by(Group.step, Group.idx))
    return len(places), [(row.step, GroupRecord.model_validate(row.record)) for row in rows]


def with_items(store: BlobStore, blob: str, chosen: Sequence[Chosen]) -> list[StoredGroup]:
    """The groups with their rows of the file `blob`. Raises `BlobMissing`."""
    wanted = {record.row for _, record in chosen}
    items: dict[int, dict[str, Any]] = {}
    with store.open(blob) as stream:
        for line, raw in enumerate(islice(stream, max(wanted, default=0)), start=1):
            if line in wanted:
                items[line] = parse_row(line_content(raw, line), line).item
    return [StoredGroup(f"{step}-{record.idx}", step, record, items[record.row]) for step, record in chosen]
