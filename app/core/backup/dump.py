"""Writes a backup of a running or stopped installation: the rows of one snapshot, and every blob that they refer to.

The rows are read in one REPEATABLE READ transaction, so they show a single moment however long the backup takes. Blobs
are not part of that snapshot: one may be deleted during the backup, together with its row, which the snapshot still
shows. So blobs are written first, and the rows of blobs that were deleted are omitted afterwards. Rows are exported
with COPY through the driver, so no client program of the server's version is needed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, BinaryIO, Final, cast

import psycopg
from psycopg import sql
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from app.core import migrate
from app.core.backup import contents
from app.core.backup.archive import BackupWriter
from app.core.backup.contents import Manifest, ReferencedBlob
from app.core.db import Database
from app.core.errors import BadSetup, DatabaseUnavailable
from app.core.storage.blobs import SUMS, BlobMissing, BlobStore, StorageUnavailable
from app.core.tables import metadata

PART_BYTES: Final = 4 << 20
"""Approximate size of the members that hold a table's rows."""

ProgressListener = Callable[["BackupProgress"], None]


@dataclass
class BackupProgress:
    """Progress: `done` of `total` steps (blobs and tables of a dump, bytes of a restore), and the bytes so far."""

    total: int = 0
    done: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class DumpResult:
    """What a dump has written."""

    blobs: int
    bytes: int
    problems: list[str]
    """Data that the installation itself has lost, for the operator; the backup contains the rest."""


@dataclass
class _Dump:
    database: Database
    store: BlobStore
    writer: BackupWriter
    on_progress: ProgressListener
    progress: BackupProgress = field(default_factory=BackupProgress)
    gone: list[str] = field(default_factory=list)
    """Keys of blobs that were deleted during the dump."""
    problems: list[str] = field(default_factory=list)

    def advance(self, count: int = 0) -> None:
        self.progress.bytes += count
        self.on_progress(self.progress)

    def blob(self, named: ReferencedBlob) -> None:
        try:
            self._tree(named.place) if named.is_tree else self._one(named.place, named.sha256)
        except BlobMissing as error:
            with self.database.transaction() as session:
                is_needed = contents.still_named(session, named.place)
            if is_needed:
                self.problems.append(f"{named.place} cannot be backed up: {error.message}")
            else:
                self.gone.append(named.place)
        self.progress.done += 1
        self.advance()

    def _tree(self, prefix: str) -> None:
        # The list of digests comes last, so that an interrupted restore leaves no tree that looks complete.
        for line in self._small(f"{prefix}/{SUMS}").splitlines():
            sha256, _, name = line.partition("  ")
            self._one(f"{prefix}/{name}", sha256)
        self._one(f"{prefix}/{SUMS}", None)

    def _small(self, key: str) -> str:
        with self.store.open(key) as blob:
            return blob.read().decode()

    def _one(self, key: str, sha256: str | None) -> None:
        try:
            # Copy to a local file first: an error in the middle of a member would break the archive.
            with self.store.as_file(key, self.advance) as path, path.open("rb") as content:
                size = path.stat().st_size
                digest = self.writer.add(f"{contents.BLOBS}{key}", size, content)
        except FileNotFoundError as error:
            raise BlobMissing(f"The blob store holds nothing under '{key}'.") from error
        except StorageUnavailable as error:
            if self.store.exists(key):
                raise
            raise BlobMissing(error.message) from error
        if sha256 not in (None, digest):
            self.problems.append(f"{key} has changed since it was stored; the backup contains the changed blob.")
        self.advance(size)

    def table(self, session: Session, name: str, columns: list[str]) -> None:
        for number, part in enumerate(_parts(_rows(session, name, columns, self.gone))):
            self.writer.add_bytes(f"{contents.TABLES}{name}/{number:06d}", part)
            self.advance(len(part))
        self.progress.done += 1
        self.advance()


def dump(database: Database, store: BlobStore, out: BinaryIO, on_progress: ProgressListener) -> DumpResult:
    """Write the backup to `out`, which is complete on return.

    Raises `BadSetup` unless the schema is current, `DatabaseUnavailable`, `StorageUnavailable` and `OSError`.
    """
    with database.transaction() as session:
        connection = session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        for setting in ("idle_in_transaction_session_timeout", "statement_timeout"):
            session.execute(text(f"SET LOCAL {setting} = 0"))
        session.execute(text("SET LOCAL datestyle = 'ISO'"))
        if not migrate.is_head(connection):
            raise BadSetup("The database schema is not current; run `grouptune db upgrade`, then back up.")
        manifest = _manifest(session)
        named = contents.named(session)
        work = _Dump(database, store, BackupWriter(out), on_progress, BackupProgress(len(named) + len(manifest.tables)))
        work.writer.add_bytes(contents.MANIFEST, manifest.model_dump_json(indent=2).encode())
        for blob in named:
            work.blob(blob)
        for name, columns in manifest.tables.items():
            work.table(session, name, columns)
        work.writer.close()
    return DumpResult(len(named) - len(work.gone), work.progress.bytes, work.problems)


def _manifest(session: Session) -> Manifest:
    return Manifest(
        version=version("grouptune"),
        revision=migrate.head(),
        created_at=session.scalars(select(func.now())).one(),
        tables={table.name: [column.name for column in table.columns] for table in metadata.sorted_tables},
    )


def _rows(session: Session, name: str, columns: list[str], gone: list[str]) -> Iterator[bytes]:
    """Yield the rows of a table in COPY's text format. Raises `DatabaseUnavailable`."""
    left_out = sql.SQL(cast("Any", contents.LEFT_OUT.get(name, "false"))).format(gone=sql.Literal(gone))
    query = sql.SQL("COPY (SELECT {columns} FROM {table} WHERE NOT ({left_out})) TO STDOUT").format(
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)), table=sql.Identifier(name), left_out=left_out
    )
    driver = cast("psycopg.Connection[Any]", session.connection().connection.driver_connection)
    try:
        with driver.cursor() as cursor, cursor.copy(query) as copy:
            for row in copy:
                yield bytes(row)
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable from error


def _parts(rows: Iterator[bytes]) -> Iterator[bytes]:
    part = bytearray()
    for row in rows:
        part += row
        if len(part) >= PART_BYTES:
            yield bytes(part)
            part.clear()
    if part:
        yield bytes(part)
