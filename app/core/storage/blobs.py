"""What every blob store can do. Knows no place to keep blobs: `local` and `s3` do.

A tree of files ends with its list of digests (`SHA256SUMS`): a tree without one is not complete.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

import structlog

from app.core.errors import GrouptuneError

log = structlog.get_logger(__name__)

SUMS: Final = "SHA256SUMS"
CHUNK_BYTES: Final = 1 << 20
INCOMING: Final = ".incoming"
"""Where stores keep what is not complete; no key may name it."""
MAX_SUMS_BYTES: Final = 10_000_000


class BlobMissing(GrouptuneError):
    """The blob store holds nothing under this key."""

    code = "blob_missing"


class BlobCorrupt(GrouptuneError):
    """A stored tree is not complete or its content has changed."""

    code = "blob_corrupt"


class StorageUnavailable(GrouptuneError):
    """The blob store is away; try again in a few seconds."""

    status = 503
    code = "storage_unavailable"


@dataclass(frozen=True)
class StoredBlob:
    """What was written."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ListedBlob:
    """A blob that is there, and when it was written by the store's clock."""

    key: str
    written_at: datetime


def check_key(key: str) -> str:
    """The key. Raises `ValueError` for one that would leave the store."""
    parts = key.split("/")
    if any(part in ("", ".", "..", INCOMING) or "\0" in part or "\\" in part for part in parts):
        raise ValueError(f"not a blob key: {key!r}")
    return key


class BlobStore(ABC):
    """Blobs by key: relative paths with `/`, such as `jobs/ftjob-1/a1/adapter`; written once, never overwritten.

    Every method raises `ValueError` for a key that would leave the store, and `StorageUnavailable` (a local store
    `OSError`) when the place itself fails.
    """

    @abstractmethod
    def write(self, key: str, chunks: Iterable[bytes]) -> StoredBlob:
        """Stores the chunks under a new key; nothing is visible before all of it is stored.

        Raises `FileExistsError` when the key is taken, and whatever `chunks` raises, leaving no trace.
        """

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """The blob for reading, seekable. Raises `BlobMissing`."""

    @abstractmethod
    def as_file(self, key: str, tick: Callable[[], None]) -> AbstractContextManager[Path]:
        """The blob as a local file for a block; calls `tick` now and then while it is fetched. Raises `BlobMissing`."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether there is a blob under exactly this key."""

    @abstractmethod
    def scan(self, prefix: str) -> Iterator[ListedBlob]:
        """All blobs below `prefix`, in any order."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Removes one blob; absent is fine."""

    @abstractmethod
    def delete_tree(self, prefix: str) -> None:
        """Removes everything below `prefix`, the list of digests first; absent is fine."""

    @abstractmethod
    def remove_incomplete(self, before: datetime) -> None:
        """Removes what writers that were killed before that left of blobs that never appeared."""

    @abstractmethod
    def check_writable(self) -> None:
        """Writes and removes a little. Raises `StorageUnavailable` that says why that failed."""

    def discard(self, place: str) -> None:
        """Removes a blob, or all below a prefix, that nothing names; what fails now is collected as an orphan later."""
        try:
            self.delete(place)
            self.delete_tree(place)
        except (OSError, StorageUnavailable) as error:
            log.warning("blob.not_removed", place=place, error=str(error))

    def list(self, prefix: str) -> list[str]:
        """All keys below `prefix`, sorted; empty when there are none."""
        return sorted(listed.key for listed in self.scan(prefix))

    def put_tree(self, prefix: str, directory: Path) -> dict[str, StoredBlob]:
        """Stores all files of `directory` below `prefix`, their digests last; returns them by path.

        Raises `FileExistsError` when a file is there already.
        """
        files = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
        stored = {name: self.write(f"{prefix}/{name}", read(files[name])) for name in sorted(files) if name != SUMS}
        sums = "".join(f"{one.sha256}  {name}\n" for name, one in stored.items())
        self.write(f"{prefix}/{SUMS}", [sums.encode()])
        return stored

    def fetch_tree(self, prefix: str, destination: Path) -> None:
        """Copies a stored tree into `destination` (made if absent) and verifies every digest.

        Raises `BlobCorrupt` when the list of digests is absent, or a file is, or does not match it.
        """
        try:
            with self.open(f"{prefix}/{SUMS}") as blob:
                sums = blob.read(MAX_SUMS_BYTES).decode()
        except BlobMissing as error:
            raise BlobCorrupt(f"The tree '{prefix}' is not complete: it has no {SUMS}.") from error
        for line in sums.splitlines():
            expected, _, name = line.partition("  ")
            target = destination.joinpath(*PurePosixPath(name).parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                found = self.fetch(f"{prefix}/{name}", target)
            except BlobMissing:
                found = None
            if found != expected:
                raise BlobCorrupt(f"The file '{name}' of the tree '{prefix}' is missing or has changed.")

    def fetch(self, key: str, target: Path) -> str:
        """Copies a blob to a local path and returns its SHA-256 (hexadecimal). Raises `BlobMissing`."""
        with target.open("wb") as out:
            return self.digest(key, out.write)

    def digest(self, key: str, take: Callable[[bytes], object] = len) -> str:
        """The SHA-256 (hexadecimal) of a blob as it is now; `take` gets all of its chunks. Raises `BlobMissing`."""
        digest = hashlib.sha256()
        with self.open(key) as source:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                take(chunk)
        return digest.hexdigest()


def read(path: Path) -> Iterator[bytes]:
    """A local file in chunks."""
    with path.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            yield chunk
