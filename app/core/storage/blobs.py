"""The interface of blob stores; `local` and `s3` implement it.

The last file of a stored tree is its list of digests (`SHA256SUMS`): a tree without the list is incomplete.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
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
"""Place for incomplete blobs; no key may contain it."""
MAX_SUMS_BYTES: Final = 10_000_000


class BlobMissing(GrouptuneError):
    """The blob store holds nothing under this key."""

    code = "blob_missing"


class BlobCorrupt(GrouptuneError):
    """A stored tree is incomplete or its content has changed."""

    code = "blob_corrupt"


class StorageUnavailable(GrouptuneError):
    """The blob store is unavailable. Try again in a few seconds."""

    public_message: str | None = __doc__
    status = 503
    code = "storage_unavailable"


@dataclass(frozen=True)
class StoredBlob:
    """Size and digest of a written blob."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ListedBlob:
    """A blob in the store, and when it was written by the store's clock."""

    key: str
    written_at: datetime


def check_key(key: str) -> str:
    """Return the key. Raises `ValueError` for a key that would point outside the store."""
    parts = key.split("/")
    if any(part in ("", ".", "..", INCOMING) or "\0" in part or "\\" in part for part in parts):
        raise ValueError(f"not a blob key: {key!r}")
    return key


class BlobStore(ABC):
    """Blobs by key: relative paths with `/`, such as `jobs/ftjob-1/a1/adapter`; written once, never overwritten.

    Every method raises `ValueError` for a key that would point outside the store, and `StorageUnavailable` (a
    local store `OSError`) when the store itself fails.
    """

    @abstractmethod
    def write(self, key: str, chunks: Iterable[bytes]) -> StoredBlob:
        """Store the chunks under a new key; the blob becomes visible once it is complete.

        Raises `FileExistsError` when the key exists. Errors of `chunks` propagate and leave nothing behind.
        """

    @abstractmethod
    def open(self, key: str) -> BinaryIO:
        """Open the blob for reading, seekable. Raises `BlobMissing`."""

    @abstractmethod
    def as_file(self, key: str, tick: Callable[[], None]) -> AbstractContextManager[Path]:
        """Provide the blob as a local file during a block; call `tick` during a download. Raises `BlobMissing`."""

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Return whether a blob has exactly this key."""

    @abstractmethod
    def scan(self, prefix: str) -> Iterator[ListedBlob]:
        """Yield all blobs below `prefix`, in any order."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove one blob, if it exists."""

    @abstractmethod
    def delete_tree(self, prefix: str) -> None:
        """Remove all blobs below `prefix`, if any; the list of digests first, as an incomplete tree has none."""

    @abstractmethod
    def remove_incomplete(self, before: datetime) -> None:
        """Remove the incomplete blobs that writers left behind when they were killed before that time."""

    @abstractmethod
    def check_writable(self) -> None:
        """Write and remove a probe. Raises `StorageUnavailable` with the reason if that fails."""

    def share(self, key: str, other: str) -> None:  # noqa: B027 - an optional operation
        """Keep the content of `key` and `other` only once, if it is the same and the store can. Both keys stay."""

    def discard(self, place: str) -> None:
        """Remove a blob, or all below a prefix, that no row refers to. If that fails, it is collected as an orphan."""
        try:
            self.delete(place)
            self.delete_tree(place)
        except (OSError, StorageUnavailable) as error:
            log.warning("blob.not_removed", place=place, error=str(error))

    def list(self, prefix: str) -> list[str]:
        """Return all keys below `prefix`, sorted."""
        return sorted(listed.key for listed in self.scan(prefix))

    def put_tree(self, prefix: str, directory: Path) -> dict[str, StoredBlob]:
        """Store all files of `directory` below `prefix`, then the list of digests; return the files by path.

        Raises `FileExistsError` when a file exists already.
        """
        files = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
        stored = {name: self.write(f"{prefix}/{name}", read(files[name])) for name in sorted(files) if name != SUMS}
        sums = "".join(f"{file.sha256}  {name}\n" for name, file in stored.items())
        self.write(f"{prefix}/{SUMS}", [sums.encode()])
        return stored

    def tree_digests(self, prefix: str) -> dict[str, str]:
        """Return path -> SHA-256 (hexadecimal) of the files of a stored tree, from its list of digests.

        Raises `BlobCorrupt` when the list is missing.
        """
        try:
            with self.open(f"{prefix}/{SUMS}") as blob:
                sums = blob.read(MAX_SUMS_BYTES).decode()
        except BlobMissing as error:
            raise BlobCorrupt(f"The tree '{prefix}' is not complete: it has no {SUMS}.") from error
        lines = (line.partition("  ") for line in sums.splitlines())
        return {name: digest for digest, _, name in lines}

    def fetch_tree(self, prefix: str, destination: Path, names: Collection[str] | None = None) -> None:
        """Copy a stored tree, or its files in `names`, into `destination` (created if necessary); verify every digest.

        Raises `BlobCorrupt` when the list of digests or a file is missing, or a file does not match its digest.
        """
        for name, expected in self.tree_digests(prefix).items():
            if names is not None and name not in names:
                continue
            target = destination.joinpath(*PurePosixPath(name).parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                digest: str | None = self.fetch(f"{prefix}/{name}", target)
            except BlobMissing:
                digest = None
            if digest != expected:
                raise BlobCorrupt(f"The file '{name}' of the tree '{prefix}' is missing or has changed.")

    def fetch(self, key: str, target: Path) -> str:
        """Copy a blob to a local path; return its SHA-256 (hexadecimal). Raises `BlobMissing`."""
        with target.open("wb") as out:
            return self.digest(key, out.write)

    def digest(self, key: str, take: Callable[[bytes], object] = len) -> str:
        """Compute the SHA-256 (hexadecimal) of a blob; pass all its chunks to `take`. Raises `BlobMissing`."""
        digest = hashlib.sha256()
        with self.open(key) as source:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                take(chunk)
        return digest.hexdigest()


def read(path: Path) -> Iterator[bytes]:
    """Yield a local file in chunks."""
    with path.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            yield chunk
