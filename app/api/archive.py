"""A stored tree as a tar stream, without a copy of it in memory or on disk."""

import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from app.core.storage.local import LocalBlobStore

CHUNK_BYTES = 1 << 20


def tar_stream(store: LocalBlobStore, prefix: str) -> Iterator[bytes]:
    """The tar of all blobs below `prefix`, with paths relative to it."""
    for key in store.list(prefix):
        with store.open(key) as blob:
            size = blob.seek(0, 2)
            blob.seek(0)
            header = tarfile.TarInfo(str(PurePosixPath(key).relative_to(prefix)))
            header.size = size
            yield header.tobuf(tarfile.PAX_FORMAT)
            while chunk := blob.read(CHUNK_BYTES):
                yield chunk
            yield bytes(-size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)
