"""Ends a process together with the worker that started it, even after a `kill -9` of that worker."""

import ctypes
import os
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies; exit at once if the parent is already dead.

    The kernel sends the signal when the parent's *thread* that started this process ends.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before the call above; then the signal never comes, and another process is our parent.
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)
