"""Blobs in a local directory: written once, synced, renamed into place, never overwritten.

A tree of files ends with its list of digests (`SHA256SUMS`): a tree without one is not complete.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from app.core.errors import GrouptuneError

SUMS: Final = "SHA256SUMS"
CHUNK_BYTES: Final = 1 << 20
INCOMING: Final = ".incoming"


class BlobMissing(GrouptuneError):
    """The blob store holds nothing under this key."""

    code = "blob_missing"


class BlobCorrupt(GrouptuneError):
    """A stored tree is not complete or its content has changed."""

    code = "blob_corrupt"


@dataclass(frozen=True)
class Stored:
    """What was written."""

    bytes: int
    sha256: str


class LocalBlobStore:
    """A directory as a blob store; keys are relative paths with `/`, such as `jobs/ftjob-1/a1/adapter`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, key: str) -> Path:
        """Where `key` lies or would lie. Raises `ValueError` for a key that would leave the store."""
        parts = key.split("/")
        if any(part in ("", ".", "..", INCOMING) or "\0" in part or "\\" in part for part in parts):
            raise ValueError(f"not a blob key: {key!r}")
        return self._root.joinpath(*parts)

    def write(self, key: str, chunks: Iterable[bytes]) -> Stored:
        """Stores the chunks under a new key; nothing is visible before all of it is on disk.

        Raises `FileExistsError` when the key is taken, and whatever `chunks` raises, leaving no trace.
        """
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
            # A hard link, unlike a rename, fails when the name is taken.
            os.link(out.name, target)
        _sync_directory(target.parent)
        return Stored(size, digest.hexdigest())

    def open(self, key: str) -> BinaryIO:
        """The blob for reading. Raises `BlobMissing`."""
        try:
            return self.path(key).open("rb")
        except (FileNotFoundError, IsADirectoryError) as error:
            raise BlobMissing(f"The blob store holds nothing under '{key}'.") from error

    def exists(self, key: str) -> bool:
        """Whether there is a blob under exactly this key."""
        return self.path(key).is_file()

    def list(self, prefix: str) -> list[str]:
        """All keys below `prefix`, sorted; empty when there are none."""
        base = self.path(prefix)
        return sorted(f"{prefix}/{relative}" for relative in _files(base))

    def put_tree(self, prefix: str, directory: Path) -> dict[str, Stored]:
        """Stores all files of `directory` below `prefix`, their digests last; returns them by path.

        Raises `FileExistsError` when a file is there already.
        """
        names = sorted(name for name in _files(directory) if name != SUMS)
        stored = {name: self.write(f"{prefix}/{name}", _chunks(directory / name)) for name in names}
        sums = "".join(f"{one.sha256}  {name}\n" for name, one in stored.items())
        self.write(f"{prefix}/{SUMS}", [sums.encode()])
        return stored

    def fetch_tree(self, prefix: str, destination: Path) -> None:
        """Copies a stored tree into `destination` (made if absent) and verifies every digest.

        Raises `BlobCorrupt` when the list of digests is absent, or a file is, or does not match it.
        """
        sums = self.path(f"{prefix}/{SUMS}")
        if not sums.is_file():
            raise BlobCorrupt(f"The tree '{prefix}' is not complete: it has no {SUMS}.")
        for line in sums.read_text(encoding="utf-8").splitlines():
            expected, _, name = line.partition("  ")
            source, target = self.path(f"{prefix}/{name}"), destination.joinpath(*PurePosixPath(name).parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not source.is_file() or _copy(source, target) != expected:
                raise BlobCorrupt(f"The file '{name}' of the tree '{prefix}' is missing or has changed.")

    def delete(self, key: str) -> None:
        """Removes one blob; absent is fine."""
        self.path(key).unlink(missing_ok=True)

    def delete_tree(self, prefix: str) -> None:
        """Removes everything below `prefix`, the list of digests first; absent is fine."""
        base = self.path(prefix)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            (base / SUMS).unlink()
        shutil.rmtree(base, ignore_errors=True)


def _files(directory: Path) -> Iterator[str]:
    for path in directory.rglob("*"):
        if path.is_file():
            yield path.relative_to(directory).as_posix()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            yield chunk


def _copy(source: Path, target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for chunk in _chunks(source):
            out.write(chunk)
            digest.update(chunk)
    return digest.hexdigest()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
