"""Restores a backup: blobs as they are read, and all rows in one transaction, committed once the file is verified.

The database gets the schema of the backup, then its rows, then the newer migrations, so that older backups work too.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import psycopg
from psycopg import sql
from pydantic import ValidationError
from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.core import migrate
from app.core.backup import contents
from app.core.backup.archive import BackupDamaged, BackupMember, BackupReader
from app.core.backup.contents import Manifest
from app.core.backup.dump import BackupProgress, ProgressListener
from app.core.db import Database
from app.core.errors import BadSetup, DatabaseUnavailable, GrouptuneError
from app.core.jobs.state_machine import TERMINAL
from app.core.jobs.tables import Job
from app.core.storage.blobs import BlobStore, check_key

LOCK_SECONDS: Final = 10
_ATTEMPT: Final = re.compile(r"jobs/[^/]+/a(\d+)/")
_IDENTITIES: Final = text(
    "SELECT table_name, column_name FROM information_schema.columns "
    "WHERE table_schema = current_schema() AND is_identity = 'YES'"
)


class NotEmpty(GrouptuneError):
    """The database is not empty."""

    code = "database_not_empty"


@dataclass(frozen=True)
class RestoreResult:
    """What a restore has written."""

    manifest: Manifest
    blobs: int
    bytes: int


class _Blobs:
    """Writes blobs to the store. Existing blobs with the same content are kept."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._written: list[str] = []
        self.count = 0

    def put(self, member: BackupMember) -> None:
        key = check_key(member.name.removeprefix(contents.BLOBS))
        self.count += 1
        if self._store.exists(key):
            for _ in member.chunks():
                pass
            if self._store.digest(key) == member.sha256:
                return
            self._store.delete(key)  # blobs never change, so this one is damaged
        self._store.write(key, member.chunks())
        self._written.append(key)

    def remove_written(self) -> None:
        for key in self._written:
            self._store.discard(key)


def restore(
    database: Database,
    store: BlobStore,
    path: Path,
    on_progress: ProgressListener,
    *,
    replace: bool,
    lock_seconds: float = LOCK_SECONDS,
) -> RestoreResult:
    """Restore the backup at `path`; an error leaves everything unchanged.

    Raises `NotEmpty` for a database with jobs, files or other data of users, unless `replace`;
    `BackupDamaged`; `BadSetup` for a backup of a newer version, or while something uses the database;
    `DatabaseUnavailable` and `StorageUnavailable`. Waits `lock_seconds` for the locks of all tables.
    """
    blobs = _Blobs(store)
    try:
        with BackupReader.opened(path) as reader, database.transaction() as session:
            session.execute(text(f"SET LOCAL lock_timeout = '{lock_seconds}s'"))
            restored = _load(session, blobs, reader, path.stat().st_size, on_progress, replace=replace)
    except BaseException:
        blobs.remove_written()
        raise
    with database.transaction() as session:
        _remove_later_attempts(session, store)
    return restored


def _load(
    session: Session, blobs: _Blobs, reader: BackupReader, size: int, on_progress: ProgressListener, *, replace: bool
) -> RestoreResult:
    connection = session.connection()
    members = iter(reader)
    manifest = _manifest(next(members, None))
    tables = inspect(connection).get_table_names()
    if not replace and (held := contents.held(session, tables)):
        raise NotEmpty(
            f"The database holds {', '.join(held)}. To delete all of that and restore the backup, add --replace."
        )
    _prepare(connection, manifest.revision)
    progress = BackupProgress(size)
    for member in members:
        if member.name.startswith(contents.BLOBS):
            blobs.put(member)
        else:
            _copy(connection, manifest, member)
        progress.bytes += member.size
        progress.done = progress.bytes
        on_progress(progress)
    _set_identities(session)
    migrate.upgrade_on(connection, "head")
    return RestoreResult(manifest, blobs.count, progress.bytes)


def _manifest(member: BackupMember | None) -> Manifest:
    if member is None or member.name != contents.MANIFEST:
        raise BackupDamaged("This is not a Grouptune backup: it does not begin with a manifest.")
    try:
        manifest = Manifest.model_validate_json(member.content())
    except ValidationError as error:
        raise BackupDamaged("This version of Grouptune cannot read the manifest of this backup.") from error
    if not migrate.is_known(manifest.revision):
        raise BadSetup(
            f"The backup was made by Grouptune {manifest.version}, whose database schema ({manifest.revision}) is "
            "newer than this version's: install that version, or a later one, and restore with it."
        )
    return manifest


def _prepare(connection: Connection, revision: str) -> None:
    """Create empty tables with the schema of `revision`."""
    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))  # blobs are stored between statements
    try:
        migrate.clear(connection)
    except OperationalError as error:
        if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise
        raise BadSetup("Something still uses the database: stop the API and the workers, then restore.") from error
    migrate.upgrade_on(connection, revision)


def _copy(connection: Connection, manifest: Manifest, member: BackupMember) -> None:
    name, _, _ = member.name.removeprefix(contents.TABLES).partition("/")
    if not member.name.startswith(contents.TABLES) or name not in manifest.tables:
        raise BackupDamaged(f"The backup has a member '{member.name}' that its manifest does not list.")
    query = sql.SQL("COPY {table} ({columns}) FROM STDIN").format(
        table=sql.Identifier(name), columns=sql.SQL(", ").join(map(sql.Identifier, manifest.tables[name]))
    )
    driver = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    try:
        with driver.cursor() as cursor, cursor.copy(query) as copy:
            for chunk in member.chunks():
                copy.write(chunk)
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable from error
    except psycopg.Error as error:
        raise BackupDamaged(f"The rows of '{member.name}' do not fit its table: {error}") from error


def _set_identities(session: Session) -> None:
    """Make new identity values follow the restored ones."""
    for table, column in session.execute(_IDENTITIES).all():
        statement = sql.SQL(
            "SELECT setval(pg_get_serial_sequence({name}, {field}), max({column})) FROM {table}"
        ).format(
            name=sql.Literal(table),
            field=sql.Literal(column),
            column=sql.Identifier(column),
            table=sql.Identifier(table),
        )
        session.execute(text(statement.as_string(None)))


def _remove_later_attempts(session: Session, store: BlobStore) -> None:
    """Remove blobs of attempts after the backup: new attempts reuse their numbers, and blobs are never overwritten."""
    for job_id, attempt in session.execute(select(Job.id, Job.attempt).where(Job.status.not_in(TERMINAL))):
        for key in store.list(f"jobs/{job_id}"):
            match = _ATTEMPT.match(key)
            if match is not None and int(match[1]) > attempt:
                store.delete(key)
