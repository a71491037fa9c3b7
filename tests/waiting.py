"""Waits for other processes."""

import os
import select
import threading
import time
from collections.abc import Callable, Iterable

import psutil

WAIT_SECONDS = 120.0
"""Only tests that fail wait so long, and those on a busy machine."""
SHORTEST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.02, 0.2
"""A query of a server takes ten milliseconds of a core that the awaited process needs."""


def eventually(condition: Callable[[], object], seconds: float = WAIT_SECONDS) -> None:
    """Wait until `condition` is true. Polls, because the condition depends on other processes; less often later on."""
    pause = threading.Event()
    started = time.monotonic()
    while not condition():
        waited = time.monotonic() - started
        assert waited < seconds, f"the condition was not true after {seconds} s"
        pause.wait(min(LONGEST_POLL_SECONDS, SHORTEST_POLL_SECONDS + waited / 10))


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
