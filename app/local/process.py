"""One child process: in its own group, dying with its parent, waited for by pidfd. Restarts nothing."""

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

LAUNCH_SCRIPT = Path(__file__).with_name("launch.py")
LOG_ROTATE_BYTES = 16 * 1024**2
LOG_TAIL_BYTES = 4096
LOG_TAIL_LINES = 20
KILLED_WAIT_SECONDS = 10.0


class LocalStackError(Exception):
    """The embedded stack cannot go on; the message says what to do."""


class ChildFailed(LocalStackError):
    """A child process ended although it should run; the message carries the tail of its log."""

    def __init__(self, name: str, reason: str, log_path: Path) -> None:
        super().__init__(f"{name} {reason}. The end of {log_path}:\n{log_tail(log_path)}")
        self.name = name
        self.log_path = log_path


@dataclass(frozen=True)
class Identity:
    """The user that a child runs as."""

    uid: int
    gid: int


@dataclass(frozen=True)
class RestartPolicy:
    """How often and how fast a crashed child comes back."""

    first_delay_seconds: float = 0.5
    max_delay_seconds: float = 30.0
    stable_seconds: float = 10.0
    """A child that lived so long starts again with a clean record."""
    max_quick_failures: int = 4
    """So many ends in a row, each before `stable_seconds`, mean that it will never work."""

    def delay_seconds(self, failures: int) -> float:
        """Pause before the start that follows the `failures`-th failure in a row (1, 2, ...)."""
        return float(min(self.max_delay_seconds, self.first_delay_seconds * 2 ** (failures - 1)))


def _nothing() -> None:
    """The default of `ChildSpec.before_start`."""


@dataclass(frozen=True)
class ChildSpec:
    """Everything needed to start a process, and to start it again."""

    name: str
    argv: tuple[str, ...]
    """The first word is an absolute path."""
    env: Mapping[str, str]
    log_path: Path
    identity: Identity | None = None
    """None keeps the user of this process."""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_seconds: float = 10.0
    death_signal: signal.Signals = signal.SIGKILL
    """What the kernel sends when the parent *thread* ends."""
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    before_start: Callable[[], None] = _nothing


class Child:
    """A running process. `close` must be called once, by `stop` or `reap`."""

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
                process_group=0,
            )
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)
        self.started_at = time.monotonic()

    def wait(self, seconds: float, *, also_fd: int | None = None) -> bool:
        """True once the process has ended; returns early when `also_fd` becomes readable."""
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        if also_fd is not None:
            poller.register(also_fd, select.POLLIN)
        return any(fd == self.pidfd for fd, _ in poller.poll(max(0.0, seconds) * 1000))

    def check(self, seconds: float) -> None:
        """Waits up to `seconds`; raises `ChildFailed` as soon as the process ends."""
        if self.wait(seconds):
            raise ChildFailed(self.spec.name, f"ended with {describe_exit(self.reap())}", self.spec.log_path)

    def send(self, number: signal.Signals) -> None:
        """Signals the process itself, not its group."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def kill(self) -> None:
        """SIGKILL to the group, and to descendants that left the group."""
        if self._process.returncode is not None:
            return
        strays = descendants(self.pid)
        self._kill_group()
        for pid in strays:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def reap(self) -> int:
        """Collects the exit status of an ended process, kills what is left of its group, frees the pidfd."""
        if self._process.returncode is None:
            # Before the wait: while the leader is a zombie nobody else can get its group id.
            self._kill_group()
            self._process.wait(KILLED_WAIT_SECONDS)
            os.close(self.pidfd)
        return int(self._process.returncode)

    def stop(self, *, grace_seconds: float | None = None) -> int:
        """Asks, waits, kills, reaps; returns the exit status. For a child that no supervisor holds."""
        if self._process.returncode is None:
            self.send(self.spec.stop_signal)
            if not self.wait(self.spec.stop_grace_seconds if grace_seconds is None else grace_seconds):
                self.kill()
        return self.reap()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def _launch_argv(spec: ChildSpec) -> list[str]:
    identity = spec.identity or Identity(-1, -1)
    numbers = (os.getpid(), spec.death_signal.value, identity.uid, identity.gid)
    return [sys.executable, "-I", "-S", str(LAUNCH_SCRIPT), *(str(number) for number in numbers), *spec.argv]


def descendants(pid: int) -> list[int]:
    """Process ids below `pid`, from one walk over /proc; processes born meanwhile may be missing."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The command name in parentheses may hold blanks: count fields after the last one.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def open_log(path: Path) -> BinaryIO:
    """Opens a log for appending; a long one of an earlier run is put aside as `NAME.1` first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_ROTATE_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def log_tail(path: Path) -> str:
    """The last lines of a log, or a remark that there is none."""
    try:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - LOG_TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except OSError as error:
        return f"(unreadable: {error})"
    return "\n".join(text.splitlines()[-LOG_TAIL_LINES:]) or "(empty)"


def describe_exit(status: int) -> str:
    """`exit status 3` or `signal SIGKILL`, from a `Popen.returncode`."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
