"""Waits for other processes."""

import os
import select
import threading
import time
from collections.abc import Callable, Iterable

import psutil

WAIT_SECONDS = 60.0
POLL_SECONDS = 0.05


def eventually(condition: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
    """Wait until `condition` is true. Polls, because the condition depends on other processes."""
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition was not true after {seconds} s"
        pause.wait(POLL_SECONDS)


def all_end(processes: Iterable[psutil.Process], seconds: float) -> bool:
    """Whether all processes end in time. Uses pidfds, because psutil would also wait for init to reap orphans."""
    deadline = time.monotonic() + seconds
    return all(_ends(process, deadline) for process in processes)


def _ends(process: psutil.Process, deadline: float) -> bool:
    if not process.is_running():
        return True
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    ended = bool(poller.poll(max(0.0, deadline - time.monotonic()) * 1000))
    os.close(pidfd)
    return ended
