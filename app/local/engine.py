"""Base class of the embedded engines: Postgres and Valkey, as child processes of this one."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from app.local.errors import LocalStackError
from app.local.process import Child, ChildSpec

ReportProgress = Callable[[str], None]
"""Shows a one-line progress message."""


def report_nothing(_message: str) -> None:
    """The default `progress` callback."""


class EmbeddedEngine(ABC):
    """An engine of one state directory.

    Either use `start` and `stop` (or a `with` block) in a thread that outlives the engine, or give `spec()` to a
    `Supervisor` and then call `wait_ready`. The caller ensures that only one process at a time uses a state directory.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir.absolute()
        self._socket_dir = Path()
        self._child: Child | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    @abstractmethod
    def url(self) -> str:
        """URL for clients of the engine; valid after `start` or `spec`."""

    @property
    @abstractmethod
    def log_path(self) -> Path:
        """Log file of the engine."""

    @property
    def pid(self) -> int:
        """Process id of the engine that `start` started."""
        if self._child is None:
            raise LocalStackError("call start() first")
        return self._child.pid

    @abstractmethod
    def spec(self) -> ChildSpec:
        """Prepare the files of the engine and return how to run it."""

    @abstractmethod
    def wait_ready(self, pause: Callable[[float], None]) -> None:
        """Wait until the engine answers; raises `LocalStackError` with the end of its log when that takes too long.

        `pause(seconds)` waits, and raises if the process has ended: `Child.check` or `Supervisor.wait`.
        """

    def start(self) -> None:
        """Start the engine and wait until it answers; raises `LocalStackError` with the end of its log otherwise."""
        child = self._child = Child(self.spec())
        try:
            self.wait_ready(child.check)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the engine, if `start` started it. Postgres rolls open transactions back (fast shutdown)."""
        if self._child is not None:
            self._child.stop()
            self._child = None
