"""Copies of adapters, from the blob store, in the directory that the engines read.

A copy is named after its content, so engines may cache it under that name. It is written once and renamed into place.
Several API processes may share the directory.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from app.core.models.adapters import ADAPTER_FILES
from app.core.models.tables import TrainedModel
from app.core.storage.blobs import BlobStore

log = structlog.get_logger(__name__)

PREFIX: Final = "grouptune-"
NAME: Final = re.compile(rf"{PREFIX}[0-9a-f]{{16}}")
PROBE: Final = "probe.json"
_INCOMING: Final = ".incoming"
_ABANDONED_SECONDS: Final = 3600.0
"""Age at which an incomplete copy or one being removed belongs to a process that was killed."""


@dataclass(frozen=True)
class AdapterFiles:
    """A complete copy of an adapter."""

    name: str
    """`grouptune-<16 hexadecimal digits>`; the engines know the adapter by this name."""
    path: Path
    """Directory with adapter_config.json, adapter_model.safetensors and, except for old models, probe.json."""


def name_of(store: BlobStore, adapter: TrainedModel) -> str:
    """Return the name that stands for the adapter's base model, weights and config. Raises `BlobCorrupt`."""
    digests = store.tree_digests(adapter.blob)
    content = [adapter.base_model, *(digests.get(file, "") for file in ADAPTER_FILES)]
    return PREFIX + hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]


def fetch(store: BlobStore, adapter: TrainedModel, serve_dir: Path) -> AdapterFiles:
    """Copy the adapter to `serve_dir`/adapters unless it is there already, and mark it as used now.

    Raises `BlobCorrupt`, `StorageUnavailable` and `OSError`.
    """
    name = name_of(store, adapter)
    path = serve_dir / "adapters" / name
    while True:
        if not path.is_dir():
            _copy(store, adapter.blob, path)
        with contextlib.suppress(FileNotFoundError):  # another process has removed it just now
            os.utime(path)
            return AdapterFiles(name, path)


def _copy(store: BlobStore, blob: str, path: Path) -> None:
    incoming = path.parent / _INCOMING
    incoming.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f"{path.name}.", dir=incoming))
    try:
        staged.chmod(0o755)  # engines may run as another user
        store.fetch_tree(blob, staged, (*ADAPTER_FILES, PROBE))
        for file in staged.iterdir():
            _sync(file)
        staged.rename(path)
    except OSError:
        if not path.is_dir():  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def evict(serve_dir: Path, kept: int, in_use: Collection[str]) -> list[str]:
    """Remove the least recently used copies over `kept`, except those `in_use`; return their names.

    Also removes what killed processes left behind.
    """
    directory = serve_dir / "adapters"
    incoming = directory / _INCOMING
    copies = sorted((_changed(path), path.name) for path in directory.glob(f"{PREFIX}*"))
    unused = [name for _, name in copies if name not in in_use and NAME.fullmatch(name)]
    removed = unused[: max(0, len(copies) - kept)]
    for name in removed:
        # Renamed first: an engine sees a whole adapter or none.
        doomed = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=incoming))
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            (directory / name).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    for left in incoming.glob("*"):
        if _changed(left) < time.time() - _ABANDONED_SECONDS:
            log.warning("adapter.abandoned_copy_removed", path=str(left))
            shutil.rmtree(left, ignore_errors=True)
    return removed


def _changed(directory: Path) -> float:
    """Return when a directory last changed; now, if another process has just renamed or removed it."""
    try:
        return directory.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _sync(file: Path) -> None:
    """Wait until the file is on disk, so that a power cut leaves no complete copy with incomplete files."""
    with file.open("rb") as written:
        os.fsync(written.fileno())
