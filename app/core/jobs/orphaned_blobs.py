"""Orphaned blobs: no row refers to them, and no running attempt or pending upload can still create such a row.

A blob is written before its row, and keys are never reused. A blob that is older than any request and belongs to no
running attempt can therefore no longer get a row. The order matters: list old blobs first, then query the database.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import accumulate, islice
from typing import Final

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from app.core.exports.tables import Export, ExportStatus
from app.core.files.tables import File, Upload, UploadStatus
from app.core.jobs.state_machine import JobStatus
from app.core.jobs.tables import Checkpoint, Job
from app.core.models.tables import TrainedModel
from app.core.storage.blobs import BlobStore, ListedBlob

PREFIXES: Final = ("exports", "files", "jobs", "uploads")
"""Prefixes that this installation writes below. Other keys in the store are left alone."""
_BATCH: Final = 500


def written_before(session: Session, grace_seconds: float) -> datetime:
    """Return the time before which a blob must have been written to be old enough, by the database's clock."""
    now: datetime = session.scalars(select(func.now())).one()
    return now - timedelta(seconds=grace_seconds)


def old_blobs(store: BlobStore, before: datetime) -> Iterator[list[str]]:
    """Yield the keys of blobs written before `before`, in batches for `orphans_among`."""
    blobs = (listed for prefix in PREFIXES for listed in store.scan(prefix))
    yield from _batches(_older(blobs, before))


def _older(blobs: Iterable[ListedBlob], before: datetime) -> Iterator[str]:
    return (listed.key for listed in blobs if listed.written_at < before)


def _batches(keys: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(islice(keys, _BATCH)):
        yield batch


def orphans_among(session: Session, keys: Sequence[str]) -> list[str]:
    """Return the keys that nothing needs, of keys from `old_blobs`."""
    # A row may refer to a blob itself (a file) or to the tree above it (a checkpoint): for "a/b/c" look up "a", "a/b"
    # and "a/b/c".
    above = {key: set(accumulate(key.split("/"), lambda left, right: f"{left}/{right}")) for key in keys}
    needed = _needed(session, set().union(*above.values()))
    return [key for key, places in above.items() if not places & needed]


def _needed(session: Session, places: set[str]) -> set[str]:
    """Return the keys and prefixes among `places` that a row refers to or that an attempt or upload writes below."""
    names = list(places)
    needed: set[str] = set()
    for blob in (File.blob, File.rows_blob, TrainedModel.blob, Checkpoint.blob, Export.blob):
        needed.update(session.scalars(select(blob).where(blob.in_(names))))
    attempt = func.concat("jobs/", Job.id, "/a", Job.attempt)
    needed.update(session.scalars(select(attempt).where(Job.status == JobStatus.running, attempt.in_(names))))
    archive = func.concat("exports/", Export.id, "/a", Export.attempts)
    needed.update(session.scalars(select(archive).where(Export.status == ExportStatus.running, archive.in_(names))))
    upload = func.concat("uploads/", Upload.id)
    # `worker.maintenance.expiry` removes the parts of ended uploads together with their rows.
    unswept = or_(Upload.status == UploadStatus.pending, Upload.is_swept.is_(False))
    needed.update(session.scalars(select(upload).where(unswept, upload.in_(names))))
    return needed
