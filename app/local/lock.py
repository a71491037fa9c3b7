"""The lock of a state directory: at most one process runs an installation at a time.

An flock belongs to an open file, and the kernel releases it when the holder ends, by kill -9 too. A file that only
contains a process id would outlive a crash, and another program could have the same id after a reboot.
"""

import fcntl
import os
from pathlib import Path

from app.local.errors import AlreadyRunning


class StateLock:
    """Exclusive lock on `STATE_DIR/lock`. The file is never deleted; it contains the process id of the last holder."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "lock"
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock. Raises `AlreadyRunning` immediately if another process or another `StateLock` holds it."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise AlreadyRunning(
                f"{self.path.parent} is in use by process {holder}. Stop that process, or choose another --state-dir."
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
