"""A deadline that other threads can bring forward, so that work ends when nothing waits for its result."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_current: Final[ContextVar["Deadline | None"]] = ContextVar("deadline", default=None)


def check_deadline() -> None:
    """Raise `TimeoutError` if the deadline of this thread's work has passed: between the steps of long computations."""
    deadline = _current.get()
    if deadline is not None and deadline.has_passed:
        raise TimeoutError


class Deadline:
    """A time by which work must end. Thread-safe."""

    def __init__(self, seconds: float = threading.TIMEOUT_MAX) -> None:
        """The deadline passes after `seconds`; by default only `expire` makes it pass."""
        self._at = time.monotonic() + seconds
        self._expired = threading.Event()
        self._lock = threading.Lock()
        self._interrupts: set[Callable[[], None]] = set()

    @property
    def has_passed(self) -> bool:
        """Whether the work must end."""
        return self._expired.is_set() or time.monotonic() >= self._at

    def left(self, at_most: float = threading.TIMEOUT_MAX) -> float:
        """Return the seconds that are left, from 0 to `at_most`: the timeout of the next blocking call."""
        return 0.0 if self._expired.is_set() else max(0.0, min(at_most, self._at - time.monotonic()))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let `check_deadline` check this deadline in the block, on this thread."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def wait(self, seconds: float) -> bool:
        """Wait, but not past the deadline; return whether it has passed."""
        self._expired.wait(self.left(seconds))
        return self.has_passed

    def expire(self) -> None:
        """Bring the deadline forward to now, and interrupt the blocking calls that wait for it."""
        with self._lock:
            self._expired.set()
            for interrupt in self._interrupts:
                interrupt()

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Let `expire` call `interrupt`, which ends the blocking call in this block. It must be quick and not raise.

        It is called at once if the deadline was expired before, and never after the block.
        """
        with self._lock:
            self._interrupts.add(interrupt)
            if self._expired.is_set():
                interrupt()
        try:
            yield
        finally:
            with self._lock:
                self._interrupts.discard(interrupt)
