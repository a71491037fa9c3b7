"""One supervisor per state directory: an flock that the kernel releases however the holder ends."""

import fcntl
import os
from pathlib import Path

from app.local.process import LocalStackError


class AlreadyRunning(LocalStackError):
    """Another process holds the state directory."""


class StateLock:
    """Holds `STATE_DIR/lock` from `acquire` to `release`; the file stays and names the holder."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "lock"
        self._fd = -1

    def acquire(self) -> None:
        """Raises `AlreadyRunning` at once when another process, or another lock of this one, holds it."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise AlreadyRunning(
                f"{self.path.parent} is in use by process {holder}: stop that one, or choose another state directory"
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Lets go; harmless when not held."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
