"""Writes and restores backup files. Imports SQLAlchemy, so `app.cli.db.commands` imports this module on use."""

import os
from pathlib import Path

from app.core.backup import dump as dumping
from app.core.backup import restore as restoring
from app.core.backup.archive import MODE
from app.core.backup.dump import DumpResult, ProgressListener
from app.core.backup.restore import RestoreResult
from app.core.db import Database
from app.core.settings import Settings
from app.core.storage.blobs import BlobStore
from app.core.storage.opening import open_store


def dump(database_url: str, config: Settings, path: Path, report_progress: ProgressListener) -> DumpResult:
    """Write the backup to a temporary file and rename it to `path` once it is complete and synced to disk."""
    draft = path.with_name(f"{path.name}.partial")
    database = Database(database_url, pool_size=2)
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, MODE), "wb") as out:
            dumped = dumping.dump(database, _store(config), out, report_progress)
            out.flush()
            os.fsync(out.fileno())
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    finally:
        database.dispose()
    return dumped


def restore(
    database_url: str, config: Settings, path: Path, report_progress: ProgressListener, *, replace: bool
) -> RestoreResult:
    """Restore the backup at `path`."""
    database = Database(database_url, pool_size=2)
    try:
        return restoring.restore(database, _store(config), path, report_progress, replace=replace)
    finally:
        database.dispose()


def _store(config: Settings) -> BlobStore:
    return open_store(config.storage_dir, config.storage_url, config.storage_endpoint, config.storage_region)
