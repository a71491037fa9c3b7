"""Downloads of adapters: a fine-tuned model or a checkpoint as a tar archive, made while it is sent."""

import re
import tarfile
from collections.abc import Generator, Iterable
from contextlib import closing
from pathlib import PurePosixPath
from typing import Any, Final

from app.api.blob_response import BlobResponse
from app.core.models import adapters, stored_adapter
from app.core.models.tables import TrainedModel
from app.core.storage.blobs import BlobStore

CHUNK_BYTES: Final = 1 << 20
TAR: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"application/x-tar": {}}, "description": "The adapter's files as a tar archive."}
}
"""The response in the OpenAPI document."""


def adapter_archive(store: BlobStore, adapter: TrainedModel) -> BlobResponse:
    """Return the PEFT adapter, its config and its README as a tar archive. Raises `AdapterMissing`."""
    adapters.check_files(adapter)
    filename = re.sub(r"[^A-Za-z0-9._-]+", "-", adapter.id).strip("-")
    chunks = _chunks(store, adapter.blob, stored_adapter.downloaded(store, adapter))
    headers = {"content-disposition": f'attachment; filename="{filename}.tar"'}
    return BlobResponse(closing(chunks), chunks, 200, headers, "application/x-tar")


def _chunks(store: BlobStore, prefix: str, keys: Iterable[str]) -> Generator[bytes]:
    """Yield a tar of blobs below `prefix`, without a copy in memory or on disk."""
    for key in keys:
        with store.open(key) as blob:
            size = blob.seek(0, 2)
            blob.seek(0)
            header = tarfile.TarInfo(str(PurePosixPath(key).relative_to(prefix)))
            header.size = size
            yield header.tobuf(tarfile.PAX_FORMAT)
            while chunk := blob.read(CHUNK_BYTES):
                yield chunk
            yield bytes(-size % tarfile.BLOCKSIZE)  # a tar consists of 512-byte blocks
    yield bytes(2 * tarfile.BLOCKSIZE)  # two empty blocks end it
