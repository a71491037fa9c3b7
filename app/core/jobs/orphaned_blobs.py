"""Which blobs nothing needs: no row names them, and no attempt or upload that is under way may come to.

A blob is written before its row, and keys are never used twice: a blob that is older than any request and belongs to
no running attempt can no longer get a row. So the order is: list what is old, then ask the database.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import accumulate, islice
from typing import Final

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from app.core.files.tables import File, Upload, UploadStatus
from app.core.jobs.state_machine import JobStatus
from app.core.jobs.tables import Checkpoint, Job
from app.core.models.tables import TrainedModel
from app.core.storage.blobs import BlobStore, ListedBlob

PREFIXES: Final = ("files", "jobs", "uploads")
"""Where this installation writes; whatever else lies in the store is not ours."""
_BATCH: Final = 500


def written_before(session: Session, grace_seconds: float) -> datetime:
    """Blobs from before that are old enough, by the database's clock."""
    now: datetime = session.scalars(select(func.now())).one()
    return now - timedelta(seconds=grace_seconds)


def old_blobs(store: BlobStore, before: datetime) -> Iterator[list[str]]:
    """Keys of blobs that were written before that, in batches for `among`."""
    found = (listed for prefix in PREFIXES for listed in store.scan(prefix))
    yield from _batches(_older(found, before))


def _older(found: Iterable[ListedBlob], before: datetime) -> Iterator[str]:
    return (listed.key for listed in found if listed.written_at < before)


def _batches(keys: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(islice(keys, _BATCH)):
        yield batch


def among(session: Session, keys: Sequence[str]) -> list[str]:
    """Those of some old keys that nothing needs."""
    above = {key: set(accumulate(key.split("/"), lambda left, right: f"{left}/{right}")) for key in keys}
    needed = _needed(session, set().union(*above.values()))
    return [key for key, places in above.items() if not places & needed]


def _needed(session: Session, places: set[str]) -> set[str]:
    """Keys and prefixes among `places` that a row names or that something is at work below."""
    names = list(places)
    needed: set[str] = set()
    for blob in (File.blob, File.rows_blob, TrainedModel.blob, Checkpoint.blob):
        needed.update(session.scalars(select(blob).where(blob.in_(names))))
    attempt = func.concat("jobs/", Job.id, "/a", Job.attempt)
    needed.update(session.scalars(select(attempt).where(Job.status == JobStatus.running, attempt.in_(names))))
    upload = func.concat("uploads/", Upload.id)
    # Parts of those that are over and not swept yet are removed with their rows, by `worker.maintenance.expiry`.
    unswept = or_(Upload.status == UploadStatus.pending, Upload.is_swept.is_(False))
    needed.update(session.scalars(select(upload).where(unswept, upload.in_(names))))
    return needed
