"""One subprocess in its own session: its output line by line, a polite stop, a kill that spares no child."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

CREDENTIALS: Final = frozenset(
    {
        *("DATABASE_URL", "REDIS_URL", "GROUPTUNE_DATABASE_URL", "GROUPTUNE_REDIS_URL", "PGPASSWORD", "PGPASSFILE"),
        *("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"),
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE"),
        *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        *("GROUPTUNE_SECRET_KEYS", "GROUPTUNE_SECRET_KEYS_FILE", "GROUPTUNE_TEACHER_API_KEY"),
    }
)
"""Only the runner holds them. Of teachers' keys it hands on the one that belongs to the job's teacher."""
TRACKER_CREDENTIALS: Final = frozenset(
    {
        *("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "TRACKIO_WRITE_TOKEN"),
        *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "DATABRICKS_TOKEN"),
    }
)
"""Only trackers get them: the trainer has no use for them."""
TAIL_BYTES: Final = 4000
TAIL_LINES: Final = 30


class ChildProcess:
    """A started subprocess. Its spawning thread must live as long: PR_SET_PDEATHSIG follows the thread."""

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        *,
        withheld: Collection[str] = CREDENTIALS | TRACKER_CREDENTIALS,
        added: Mapping[str, str] | None = None,
        with_input: bool = False,
    ) -> None:
        """Starts `argv` with standard error appended to `log`, without the variables `withheld` and with those `added`.

        Raises `OSError` when it cannot be started.
        """
        environment = {name: value for name, value in os.environ.items() if name not in withheld}
        environment |= added or {}
        environment |= {"OMP_WAIT_POLICY": "PASSIVE", "GROUPTUNE_PARENT_PID": str(os.getpid())}
        self.log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if with_input else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
        self._lock = threading.Lock()
        self._reaped = False
        # What the child started dies with it, and with that its ends of the pipe close.
        self._watcher = threading.Thread(target=self._watch, name=f"child-{self._process.pid}", daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        # WNOWAIT leaves the zombie, which keeps the number of its process group from being reused.
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self._signal_group(signal.SIGKILL)
            self._process.wait()
            self._reaped = True

    def lines(self) -> Iterator[bytes]:
        """What it writes, line by line, until it has ended."""
        if self._process.stdout is None:
            return
        with self._process.stdout as stream:
            yield from stream

    def input(self) -> IO[bytes]:
        """Its standard input, if it has one; for one thread."""
        if self._process.stdin is None:
            raise ValueError("it was started without an input")
        return self._process.stdin

    def ends_within(self, seconds: float) -> bool:
        """Whether it ends in time."""
        self._watcher.join(seconds)
        return not self._watcher.is_alive()

    def terminate(self) -> None:
        """Asks the process (not its children) to stop."""
        with self._lock:
            if not self._reaped:
                self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kills the process and all that it started, even while they are stopped."""
        with self._lock:
            if not self._reaped:
                self._signal_group(signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code once it has ended; minus the signal's number when a signal ended it."""
        self._watcher.join()
        return int(self._process.returncode)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def log_tail(log: Path) -> str:
    """The last lines of a log, for the person who must find out what happened; empty when there is none."""
    if not log.is_file():
        return ""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - TAIL_BYTES))
        return "\n".join(stream.read().decode(errors="replace").splitlines()[-TAIL_LINES:])


def describe_exit(code: int) -> str:
    """An exit code in words."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
