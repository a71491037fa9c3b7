"""Removes expired data: files, parts of finished uploads, stored responses for idempotent retries, finished webhook
deliveries, and teacher answers that have not been used for long. Merges old usage of inference into hours.

A blob is deleted before its row, in one transaction per object: after a crash in between, the next round deletes both
again, and until then clients see neither.
"""

import structlog

from app.core.accounts import idempotency
from app.core.db import Database
from app.core.exports import orders
from app.core.files import chunked_uploads
from app.core.inference import usage
from app.core.jobs import deletion
from app.core.storage.blobs import BlobStore
from app.core.teachers import answer_cache
from app.core.webhooks import deliveries

log = structlog.get_logger(__name__)


def remove_expired(database: Database, store: BlobStore) -> None:
    """Remove all expired data once. Raises `DatabaseUnavailable`."""
    while _remove_file(database, store):
        pass
    while _remove_export(database, store):
        pass
    with database.transaction() as session:
        chunked_uploads.expire(session)
        idempotency.delete_expired(session)
        deliveries.forget_old(session)
        answer_cache.forget_old(session)
        usage.merge_old(session)
    while _remove_parts(database, store):
        pass


def _remove_file(database: Database, store: BlobStore) -> bool:
    with database.transaction() as session:
        file = deletion.next_expired(session)
        if file is None:
            return False
        for blob in file.blobs:
            store.delete(blob)
        session.delete(file)
    log.info("file.expired", file=file.id)
    return True


def _remove_export(database: Database, store: BlobStore) -> bool:
    with database.transaction() as session:
        export = orders.next_expired(session)
        if export is None:
            return False
        if export.blob is not None:
            store.delete(export.blob)
        session.delete(export)
    log.info("export.expired", export=export.id)
    return True


def _remove_parts(database: Database, store: BlobStore) -> bool:
    with database.transaction() as session:
        upload = chunked_uploads.next_unswept(session)
        if upload is None:
            return False
        store.delete_tree(chunked_uploads.parts_prefix(upload.id))
        chunked_uploads.delete_parts(session, upload)
    log.info("upload.swept", upload=upload.id, status=upload.status)
    return True
