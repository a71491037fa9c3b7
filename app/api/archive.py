"""A stored tree as a tar stream, without a copy of it in memory or on disk."""

import tarfile
from collections.abc import Collection, Iterator
from pathlib import PurePosixPath

from app.core.storage.blobs import BlobStore

CHUNK_BYTES = 1 << 20


def tar_stream(store: BlobStore, prefix: str, names: Collection[str] | None = None) -> Iterator[bytes]:
    """The tar of all blobs below `prefix`, with paths relative to it; `names` keeps to those that are there of them."""
    for key in store.list(prefix):
        if names is not None and key.removeprefix(f"{prefix}/") not in names:
            continue
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
