"""Removes blobs that crashes and failed removals left behind, once no row can refer to them any more."""

import structlog

from app.core.db import Database
from app.core.jobs import orphaned_blobs
from app.core.storage.blobs import BlobStore

log = structlog.get_logger(__name__)


def collect(database: Database, store: BlobStore, grace_seconds: float) -> int:
    """Remove orphaned blobs once; return their number. Raises `DatabaseUnavailable` and `StorageUnavailable`."""
    with database.transaction() as session:
        before = orphaned_blobs.written_before(session, grace_seconds)
    store.remove_incomplete(before)
    removed = 0
    for keys in orphaned_blobs.old_blobs(store, before):
        with database.transaction() as session:
            unneeded = orphaned_blobs.orphans_among(session, keys)
        for key in unneeded:
            store.delete(key)
        removed += len(unneeded)
    if removed:
        log.info("orphans.removed", blobs=removed)
    return removed
