"""A subprocess in its own session: read line by line, stopped with SIGTERM, or killed together with its children."""

import contextlib
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from app.core.spec.subprocess_environment import PARENT_PID, SYSTEM_ENVIRONMENT

TAIL_BYTES: Final = 4000
TAIL_LINES: Final = 30


class ChildProcess:
    """A started subprocess.

    The thread that creates it must live as long as the subprocess: the kernel sends the signal of PR_SET_PDEATHSIG
    (`worker.parent_death`) when the creating *thread* ends, not when its process does.
    """

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        with_input: bool = False,
    ) -> None:
        """Start `argv` with standard error appended to `log`.

        `environment` is complete: nothing else is inherited. By default it is `SYSTEM_ENVIRONMENT` of this process.
        Raises `OSError` when the program cannot be started.
        """
        variables = dict(SYSTEM_ENVIRONMENT.select(os.environ) if environment is None else environment)
        # Threads that wait for work must not spin: several processes share the cores of a worker.
        variables |= {"OMP_WAIT_POLICY": "PASSIVE", PARENT_PID: str(os.getpid())}
        self.log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if with_input else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=variables,
                # A new session is also a new process group, which `killpg` reaches with all descendants.
                start_new_session=True,
            )
        self._lock = threading.Lock()
        self._reaped = False
        self._watcher = threading.Thread(target=self._watch, name=f"child-{self._process.pid}", daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        """Wait for the process to end, then kill its descendants, which closes their ends of the pipe."""
        # WNOWAIT leaves the process a zombie. While it is one, the kernel does not reuse its pid, which is also the id
        # of the process group, so that `killpg` cannot hit a stranger's group.
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self._signal_group(signal.SIGKILL)
            self._process.wait()
            self._reaped = True

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of its standard output until it has ended."""
        if self._process.stdout is None:
            return
        with self._process.stdout as stream:
            yield from stream

    def lines_and_pauses(self, seconds: float) -> Iterator[bytes | None]:
        """Yield the lines like `lines`, and None whenever no line arrives for `seconds`."""
        lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

        def forward() -> None:
            for line in self.lines():
                lines.put(line)
            lines.put(None)

        threading.Thread(target=forward, name=f"lines-{self._process.pid}", daemon=True).start()
        while True:
            try:
                line = lines.get(timeout=seconds)
            except queue.Empty:
                yield None
                continue
            if line is None:
                return
            yield line

    def input(self) -> IO[bytes]:
        """Return its standard input, for use by one thread. Raises `ValueError` without `with_input`."""
        if self._process.stdin is None:
            raise ValueError("the process was started without `with_input`")
        return self._process.stdin

    def ends_within(self, seconds: float) -> bool:
        """Wait up to the given number of seconds for the process to end; return whether it has."""
        self._watcher.join(seconds)
        return not self._watcher.is_alive()

    def terminate(self) -> None:
        """Send SIGTERM to the process, not to its children."""
        with self._lock:
            if not self._reaped:
                self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process and all its descendants, even stopped ones."""
        with self._lock:
            if not self._reaped:
                self._signal_group(signal.SIGKILL)

    def wait(self) -> int:
        """Wait for the end; return the exit code, or minus the number of the signal that ended the process."""
        self._watcher.join()
        return int(self._process.returncode)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def log_tail(log: Path) -> str:
    """Return the last lines of a log, for error messages; empty without a log."""
    if not log.is_file():
        return ""
    with log.open("rb") as stream:
        begin = max(0, log.stat().st_size - TAIL_BYTES)
        stream.seek(begin)
        lines = stream.read().decode(errors="replace").splitlines()
    if begin > 0 and len(lines) > 1:
        del lines[0]  # its beginning is missing: a part of a secret could not be recognised as one
    return "\n".join(lines[-TAIL_LINES:])


def describe_exit(code: int) -> str:
    """Describe an exit code of `ChildProcess.wait` in words."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
