"""Whether an attempt's subprocess lives: stop requests, drains and lost leases meet here, from any thread."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from app.core.errors import LostLease
from app.core.jobs.state_machine import StopRequest
from worker.child_process import ChildProcess

log = structlog.get_logger(__name__)


class ProcessControl:
    """The switch of one attempt."""

    def __init__(self, grace_seconds: float) -> None:
        """A subprocess that is still there `grace_seconds` after a pause or a drain began is killed."""
        self._grace_seconds = grace_seconds
        # Reentrant, because a signal handler may find its own thread inside.
        self._lock = threading.RLock()
        self._child: ChildProcess | None = None
        self._timer: threading.Timer | None = None
        self._fenced = threading.Event()
        self.reason: StopRequest | None = None

    @contextmanager
    def running(self, child: ChildProcess) -> Iterator[ChildProcess]:
        """Puts `child` under control for a block, which it does not outlive."""
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
        """Asks for a stop: a cancelled job keeps nothing and is killed; others may save first."""
        with self._lock:
            if not reason.outranks(self.reason):
                return
            self.reason = reason
            log.info("attempt.stopping", reason=str(reason))
            self._apply()

    def fence(self, why: str) -> None:
        """Kills the subprocess: the job has another owner, or may have one."""
        with self._lock:
            if not self._fenced.is_set():
                log.warning("attempt.fenced", why=why)
            self._fenced.set()
            self._apply()

    def check(self) -> None:
        """Raises `LostLease` once fenced: nothing may be written then."""
        if self._fenced.is_set():
            raise LostLease

    def pause_for(self, seconds: float) -> None:
        """Waits between two tries, no longer than until the fence."""
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
    """Tells every attempt of this process that it shuts down."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._listeners: list[Callable[[], None]] = []
        self.begun = False

    def begin(self) -> None:
        """From now on no attempt starts, and those that run hand their jobs back."""
        with self._lock:
            self.begun = True
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    @contextmanager
    def subscribe(self, listener: Callable[[], None]) -> Iterator[None]:
        """Calls `listener` when the drain begins during the block, or at once if it has."""
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
