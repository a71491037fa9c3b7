"""Blobs in an S3-compatible bucket, streamed both ways in constant memory.

Credentials come from the environment (`AWS_ACCESS_KEY_ID`, ...) or the machine's role, not from our settings.
"""

import hashlib
import io
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from app.core.scratch import scratch_directory
from app.core.storage.blobs import (
    CHUNK_BYTES,
    INCOMING,
    SUMS,
    BlobMissing,
    BlobStore,
    ListedBlob,
    StorageUnavailable,
    StoredBlob,
    check_key,
)

if TYPE_CHECKING:
    from obstore import ReadableFile
    from obstore.store import S3Config

PART_BYTES: Final = 8 << 20
"""Size of a part of a multipart upload, and of a ranged read. S3 allows 10,000 parts, so a blob can have 78 GiB."""
PARTS_AT_ONCE: Final = 4
RETRIES: Final = 5
RETRY_TIMEOUT: Final = timedelta(seconds=30)


@dataclass(frozen=True)
class Bucket:
    """Location of a bucket."""

    name: str
    prefix: str | None
    """Prefix of all keys."""
    region: str
    endpoint: str | None
    """URL of a store other than AWS; None means AWS."""


class S3BlobStore(BlobStore):
    """A bucket, or a prefix of one, as a blob store."""

    def __init__(self, bucket: Bucket, *, retries: int = RETRIES) -> None:
        # AWS addresses buckets by host name, most other stores by path.
        config: S3Config = {
            "region": bucket.region,
            "virtual_hosted_style_request": bucket.endpoint is None,
            "checksum_algorithm": "sha256",
        }
        if bucket.endpoint is not None:
            config["endpoint"] = bucket.endpoint
        self._store = S3Store(
            bucket.name,
            prefix=bucket.prefix,
            config=config,
            client_options={"allow_http": (bucket.endpoint or "").startswith("http://")},
            retry_config={"max_retries": retries, "retry_timeout": RETRY_TIMEOUT},
        )
        self._name = f"s3://{bucket.name}"

    def write(self, key: str, chunks: Iterable[bytes]) -> StoredBlob:
        # Only blobs of at least one full part are worth a multipart upload, which takes three requests or more.
        counted = _HashedChunks(chunks)
        stream = iter(counted)
        first = b"".join(_up_to(stream, PART_BYTES))
        with self._translated(check_key(key)):
            try:
                if len(first) < PART_BYTES:
                    obstore.put(self._store, key, first, mode="create", use_multipart=False)
                else:
                    self._write_parts(key, chain([first], stream))
            except AlreadyExistsError as error:
                raise FileExistsError(f"The blob '{key}' exists already.") from error
        return StoredBlob(counted.size, counted.digest.hexdigest())

    def _write_parts(self, key: str, chunks: Iterator[bytes]) -> None:
        # A multipart upload cannot be restricted to new keys, so check before it. No two writers use the same key: keys
        # contain a random id or the number of an attempt. Parts become visible together, when the upload completes.
        if self.exists(key):
            raise FileExistsError(f"The blob '{key}' exists already.")
        obstore.put(self._store, key, chunks, use_multipart=True, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)

    def open(self, key: str) -> BinaryIO:
        with self._translated(check_key(key)):
            try:
                reader = obstore.open_reader(self._store, key, buffer_size=PART_BYTES)
            except FileNotFoundError as error:
                raise BlobMissing(f"The blob store holds nothing under '{key}'.") from error
        return cast("BinaryIO", io.BufferedReader(_Raw(reader, self._name), CHUNK_BYTES))

    @contextmanager
    def as_file(self, key: str, tick: Callable[[], None]) -> Iterator[Path]:
        with scratch_directory("blob") as directory:
            path = directory / "copy"
            with self.open(key) as source, path.open("wb") as copy:
                while chunk := source.read(CHUNK_BYTES):
                    copy.write(chunk)
                    tick()
            yield path

    def exists(self, key: str) -> bool:
        with self._translated(check_key(key)):
            try:
                obstore.head(self._store, key)
            except FileNotFoundError:
                return False
        return True

    def scan(self, prefix: str) -> Iterator[ListedBlob]:
        with self._translated(check_key(prefix)):
            for page in obstore.list(self._store, prefix=prefix):
                for entry in page:
                    yield ListedBlob(entry["path"], entry["last_modified"])

    def delete(self, key: str) -> None:
        with self._translated(check_key(key)):
            obstore.delete(self._store, key)

    def delete_tree(self, prefix: str) -> None:
        self.delete(f"{prefix}/{SUMS}")
        keys = self.list(prefix)
        with self._translated(prefix):
            if keys:
                obstore.delete(self._store, keys)

    def remove_incomplete(self, before: datetime) -> None:
        """Remove old probes. A lifecycle rule of the bucket removes incomplete uploads (docs/storage.md)."""
        with self._translated(INCOMING):
            for page in obstore.list(self._store, prefix=INCOMING):
                if old := [entry["path"] for entry in page if entry["last_modified"] < before]:
                    obstore.delete(self._store, old)

    def check_writable(self) -> None:
        probe = f"{INCOMING}/{uuid.uuid4().hex}"
        with self._translated(probe):
            obstore.put(self._store, probe, b"ok", use_multipart=False)
            obstore.delete(self._store, probe)

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """Translate the client's errors into ours. Errors of the caller's chunks propagate."""
        try:
            yield
        except FileNotFoundError as error:  # from obstore; callers handle a missing key, so this is a missing bucket
            raise _unavailable(self._name, key, error) from error
        except AlreadyExistsError:
            raise
        except BaseError as error:
            raise _unavailable(self._name, key, error) from error


class _HashedChunks:
    """Passes chunks on, and counts and hashes their bytes."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.size = 0
        self.digest = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.size += len(chunk)
            self.digest.update(chunk)
            yield chunk


def _up_to(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Yield the first chunks, until they have at least `size` bytes."""
    taken = 0
    while taken < size and (chunk := next(chunks, None)) is not None:
        taken += len(chunk)
        yield chunk


class _Raw(io.RawIOBase):
    """A Python file over ranged reads of a blob."""

    def __init__(self, reader: "ReadableFile", store: str) -> None:
        self._reader = reader
        self._store = store

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)
        try:
            data = self._reader.read(len(view))
        except (BaseError, OSError) as error:
            raise _unavailable(self._store, "a blob", error) from error
        view[: len(data)] = data
        return len(data)


def _unavailable(store: str, key: str, error: Exception) -> StorageUnavailable:
    reason = str(error).partition("\n")[0][:300]
    return StorageUnavailable(
        f"The blob store {store} cannot be used for '{key}' ({reason}); check the bucket, GROUPTUNE_STORAGE_ENDPOINT "
        "and the AWS_ variables."
    )
