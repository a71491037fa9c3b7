"""Stops the subprocess of an attempt on a stop request, a drain or a lost lease, from any thread."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from app.core.errors import LostLease
from app.core.jobs.state_machine import StopRequest
from worker.child_process import ChildProcess

log = structlog.get_logger(__name__)


class ProcessControl:
    """Controls the subprocess of one attempt."""

    def __init__(self, grace_seconds: float) -> None:
        """A subprocess that still runs `grace_seconds` after a pause or a drain began is killed."""
        self._grace_seconds = grace_seconds
        # Reentrant, because a signal handler may run in a thread that holds the lock.
        self._lock = threading.RLock()
        self._child: ChildProcess | None = None
        self._timer: threading.Timer | None = None
        self._fenced = threading.Event()
        self.reason: StopRequest | None = None

    @contextmanager
    def running(self, child: ChildProcess) -> Iterator[ChildProcess]:
        """Control `child` during a block; kill it at the end of the block if it still runs."""
        with self._lock:
            self._child = child
            self._apply()
        try:
            yield child
        finally:
            with self._lock:
                self._child = None
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
            child.kill()
            child.wait()

    def request(self, reason: StopRequest) -> None:
        """Stop the subprocess. A cancelled one is killed, because nothing of it is kept; others may save first."""
        with self._lock:
            if not reason.outranks(self.reason):
                return
            self.reason = reason
            log.info("attempt.stopping", reason=str(reason))
            self._apply()

    def fence(self, why: str) -> None:
        """Kill the subprocess, because another attempt owns the job or may own it."""
        with self._lock:
            if not self._fenced.is_set():
                log.warning("attempt.fenced", why=why)
            self._fenced.set()
            self._apply()

    def check(self) -> None:
        """Raise `LostLease` once fenced: from then on nothing may be written."""
        if self._fenced.is_set():
            raise LostLease

    def pause_for(self, seconds: float) -> None:
        """Wait between two attempts of an operation; raise `LostLease` as soon as fenced."""
        self._fenced.wait(seconds)
        self.check()

    def _apply(self) -> None:
        child = self._child
        if child is None:
            return
        if self._fenced.is_set() or self.reason is StopRequest.cancel:
            child.kill()
        elif self.reason is not None and self._timer is None:
            child.terminate()
            self._timer = threading.Timer(self._grace_seconds, child.kill)
            self._timer.daemon = True
            self._timer.start()


class Drain:
    """Notifies the attempts of this process when it shuts down."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._listeners: list[Callable[[], None]] = []
        self.begun = False

    def begin(self) -> None:
        """Begin the drain: no attempt starts from now on, and running attempts return their jobs to the queue."""
        with self._lock:
            self.begun = True
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    @contextmanager
    def subscribe(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call `listener` when the drain begins during the block, or at once if it has begun."""
        with self._lock:
            self._listeners.append(listener)
            begun = self.begun
        if begun:
            listener()
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)
