"""One child process: it has its own process group, dies with its parent, and is awaited by pidfd. Never restarted here.

A pidfd is a file descriptor for a process. It becomes readable when the process ends, so `poll` and `select` can wait
for many processes and other events at once, and it never refers to another process that got the same id.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from app.local.errors import LocalStackError

LAUNCH_SCRIPT = Path(__file__).with_name("launch.py")
LOG_ROTATE_BYTES = 16 * 1024**2
LOG_TAIL_BYTES = 4096
LOG_TAIL_LINES = 20
KILLED_WAIT_SECONDS = 10.0


class ChildFailed(LocalStackError):
    """A child process ended unexpectedly; the message contains the end of its log."""

    def __init__(self, name: str, reason: str, log_path: Path) -> None:
        super().__init__(f"{name} {reason}. The end of {log_path}:\n{log_tail(log_path)}")
        self.name = name
        self.log_path = log_path


@dataclass(frozen=True)
class ProcessUser:
    """The user and group that a child runs as."""

    uid: int
    gid: int


@dataclass(frozen=True)
class RestartPolicy:
    """When a crashed child is restarted, and when the supervisor gives up."""

    first_delay_seconds: float = 0.5
    max_delay_seconds: float = 5.0
    stable_seconds: float = 10.0
    """A child that ran at least this long starts with a failure count of 0 again."""
    max_quick_failures: int = 4
    """The supervisor gives up a child that was never ready after this many consecutive failures, each within
    `stable_seconds`."""

    def delay_seconds(self, failures: int) -> float:
        """Return the delay before the restart after the `failures`-th consecutive failure (1, 2, ...)."""
        return float(min(self.max_delay_seconds, self.first_delay_seconds * 2 ** min(failures - 1, 30)))


def _nothing() -> None:
    """The default of `ChildSpec.before_start`."""


@dataclass(frozen=True)
class ChildSpec:
    """Everything that is needed to start a process, and to restart it."""

    name: str
    argv: tuple[str, ...]
    """The first element is an absolute path."""
    env: Mapping[str, str]
    log_path: Path
    user: ProcessUser | None = None
    """None: the user of this process."""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_seconds: float = 10.0
    death_signal: signal.Signals = signal.SIGKILL
    """The signal that the kernel sends when the parent *thread* ends."""
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    before_start: Callable[[], None] = _nothing


class Child:
    """A running process. The owner must call `stop` or `reap` once, which collects the exit status."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        spec.before_start()
        with open_log(spec.log_path) as log:
            self._process = subprocess.Popen(
                _launch_argv(spec),
                env=dict(spec.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,  # a group of its own: Ctrl-C does not reach it, and one signal reaches its children
            )
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)
        self.started_at = time.monotonic()

    def wait(self, seconds: float, *, also_fd: int | None = None) -> bool:
        """Wait until the process ends; returns whether it has. Returns early when `also_fd` becomes readable."""
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        if also_fd is not None:
            poller.register(also_fd, select.POLLIN)
        return any(fd == self.pidfd for fd, _ in poller.poll(max(0.0, seconds) * 1000))

    def check(self, seconds: float) -> None:
        """Wait up to `seconds`; raises `ChildFailed` as soon as the process ends."""
        if self.wait(seconds):
            raise ChildFailed(self.spec.name, f"ended with {describe_exit(self.reap())}", self.spec.log_path)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process only, not to its group."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        """Send SIGKILL to the group, and to descendants that have left the group."""
        if self._process.returncode is not None:
            return
        # List the descendants first: once their parents are dead, they are children of init and cannot be found.
        found_elsewhere = descendants(self.pid)
        self._kill_group()
        for pid in found_elsewhere:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def reap(self) -> int:
        """Kill the rest of the group of an ended process, collect its exit status, and close the pidfd."""
        if self._process.returncode is None:
            # Kill the group before waiting: while the leader is a zombie, its group id cannot be reused.
            self._kill_group()
            self._process.wait(KILLED_WAIT_SECONDS)
            os.close(self.pidfd)
        return int(self._process.returncode)

    def stop(self, *, grace_seconds: float | None = None) -> int:
        """Send the stop signal, wait, kill if necessary, return the exit status. For a child without a supervisor."""
        if self._process.returncode is None:
            self.send(self.spec.stop_signal)
            if not self.wait(self.spec.stop_grace_seconds if grace_seconds is None else grace_seconds):
                self.kill()
        return self.reap()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def _launch_argv(spec: ChildSpec) -> list[str]:
    user = spec.user or ProcessUser(-1, -1)
    numbers = (os.getpid(), spec.death_signal.value, user.uid, user.gid)
    return [sys.executable, "-I", "-S", str(LAUNCH_SCRIPT), *(str(number) for number in numbers), *spec.argv]


def descendants(pid: int) -> list[int]:
    """List the descendants of `pid` in one pass over /proc; processes that start during the pass may be missing."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The command name, in parentheses, may contain spaces: count the fields after the last parenthesis.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    result: list[int] = []
    pending = [pid]
    while pending:
        direct = children.get(pending.pop(), [])
        result += direct
        pending += direct
    return result


def open_log(path: Path) -> BinaryIO:
    """Open a log for appending; a log that is too long is first renamed to `NAME.1`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_ROTATE_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def log_tail(path: Path) -> str:
    """Return the last lines of a log, or why it has none."""
    try:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - LOG_TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except OSError as error:
        return f"(unreadable: {error})"
    return "\n".join(text.splitlines()[-LOG_TAIL_LINES:]) or "(empty)"


def describe_exit(status: int) -> str:
    """Format a `Popen.returncode` as `exit status 3` or `signal SIGKILL`."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
