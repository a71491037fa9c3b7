"""The archive of an export: a tar with `manifest.json` first, then the files; made while it is read."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from app.core.spec.export import Manifest
from app.core.storage.blobs import read

MANIFEST: Final = "manifest.json"


def chunks(directory: Path, manifest: Manifest) -> Iterator[bytes]:
    """Yield the archive of the files in `directory` that the manifest lists."""
    text = manifest.model_dump_json(indent=2).encode()
    yield _header(MANIFEST, len(text), manifest.created_at) + text + _padding(len(text))
    for file in manifest.files:
        yield _header(file.path, file.bytes, manifest.created_at)
        yield from read(directory / file.path)
        yield _padding(file.bytes)
    yield bytes(2 * tarfile.BLOCKSIZE)  # two empty blocks end it


def _header(name: str, size: int, written_at: int) -> bytes:
    header = tarfile.TarInfo(name)
    header.size, header.mtime = size, written_at
    return header.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)
