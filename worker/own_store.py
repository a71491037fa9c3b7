"""Whether the blob store of this worker is that of the installation.

A worker on another machine that lacks GROUPTUNE_STORAGE_URL has an empty directory as its store. It would fail every
queued job within seconds, because the job's files are not there.
"""

from typing import Final

from app.core.db import Database
from app.core.files import uploads
from app.core.storage.blobs import BlobStore

_LOOKED_AT: Final = 3
"""Newest files of which one must be in the store: a single one may be just about to be deleted."""
PROBLEM: Final = (
    "None of the newest uploaded files is in its store. Give it the GROUPTUNE_STORAGE_URL of the installation, then "
    "restart it."
)


def has_files(database: Database, store: BlobStore) -> bool | None:
    """Return whether the store has uploaded files of the installation; None if no file is uploaded.

    Raises `DatabaseUnavailable` and `StorageUnavailable`.
    """
    with database.reading() as session:
        newest = uploads.newest_blobs(session, _LOOKED_AT)
    return any(map(store.exists, newest)) if newest else None
