"""Temporary directories that are removed even if their process is killed: then another process removes them."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import structlog

if sys.platform != "win32":
    import fcntl

log = structlog.get_logger(__name__)

PREFIX: Final = "grouptune-scratch-"
YOUNG_SECONDS: Final = 60.0
"""A younger directory may not be locked yet."""


@contextmanager
def scratch_directory(purpose: str) -> Iterator[Path]:
    """Yield a new directory below the system's temporary directory; remove it at the end.

    Also removes what killed processes left behind, except on Windows. `purpose` becomes a part of the name.
    """
    if sys.platform == "win32":
        with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{purpose}-", ignore_cleanup_errors=True) as name:
            yield Path(name)
        return
    remove_abandoned()
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{purpose}-", ignore_cleanup_errors=True) as name:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # the kernel releases it when this process ends
            yield Path(name)
        finally:
            os.close(descriptor)


def remove_abandoned() -> None:
    """Remove this user's scratch directories that no process holds any more."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # another user's, in use (BlockingIOError), or removed by another process
            _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(descriptor)
        if status.st_uid == os.geteuid() and status.st_mtime < time.time() - YOUNG_SECONDS:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
            log.info("scratch.removed", path=str(path))
    finally:
        os.close(descriptor)
