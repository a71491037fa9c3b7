"""Blobs in a local directory: written and synced under a temporary name, then linked to their key."""

import contextlib
import filecmp
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from app.core.paths import is_file
from app.core.storage.blobs import (
    INCOMING,
    SUMS,
    BlobMissing,
    BlobStore,
    ListedBlob,
    StorageUnavailable,
    StoredBlob,
    check_key,
)


class LocalBlobStore(BlobStore):
    """A directory as a blob store."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, key: str) -> Path:
        """Return the path of `key`. Raises `ValueError` for a key that would point outside the store."""
        return self._root.joinpath(*check_key(key).split("/"))

    def write(self, key: str, chunks: Iterable[bytes]) -> StoredBlob:
        target = self.path(key)
        incoming = self._root / INCOMING
        incoming.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        size = 0
        with tempfile.NamedTemporaryFile(dir=incoming) as out:
            for chunk in chunks:
                out.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            out.flush()
            os.fsync(out.fileno())
            target.parent.mkdir(parents=True, exist_ok=True)
            # A hard link, unlike a rename, fails when the name exists.
            os.link(out.name, target)
        _sync_directory(target.parent)
        return StoredBlob(size, digest.hexdigest())

    def open(self, key: str) -> BinaryIO:
        try:
            return self.path(key).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise BlobMissing(f"The blob store holds nothing under '{key}'.") from error

    @contextmanager
    def as_file(self, key: str, tick: Callable[[], None]) -> Iterator[Path]:
        tick()
        path = self.path(key)
        if not is_file(path):
            raise BlobMissing(f"The blob store holds nothing under '{key}'.")
        yield path

    def exists(self, key: str) -> bool:
        return is_file(self.path(key))

    def scan(self, prefix: str) -> Iterator[ListedBlob]:
        base = self.path(prefix)
        for path in base.rglob("*"):
            # Other processes may delete files during the scan.
            with contextlib.suppress(FileNotFoundError):
                if is_file(path):
                    written_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                    yield ListedBlob(f"{prefix}/{path.relative_to(base).as_posix()}", written_at)

    def delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
            self.path(key).unlink()

    def delete_tree(self, prefix: str) -> None:
        base = self.path(prefix)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            (base / SUMS).unlink()
        shutil.rmtree(base, ignore_errors=True)

    def share(self, key: str, other: str) -> None:
        target, link = self.path(key), self._root / INCOMING / f"share-{uuid4().hex}"
        # Without room for another link, or after a deletion, both copies stay as they are.
        with contextlib.suppress(OSError):
            os.link(self.path(other), link)
            try:
                # A copy that was damaged on the disk is not shared.
                if not target.samefile(link) and filecmp.cmp(target, link, shallow=False):
                    link.replace(target)
            finally:
                link.unlink(missing_ok=True)

    def remove_incomplete(self, before: datetime) -> None:
        for left in (self._root / INCOMING).glob("*"):
            with contextlib.suppress(FileNotFoundError):
                if left.stat().st_mtime < before.timestamp():
                    left.unlink()

    def check_writable(self) -> None:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._root) as probe:
                probe.write(b"ok")
        except OSError as error:
            problem = f"cannot be written ({error.strerror}); check owner and free space."
            unavailable = StorageUnavailable(f"The storage at {self._root} {problem}")
            unavailable.public_message = f"The storage {problem}"
            raise unavailable from error


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
