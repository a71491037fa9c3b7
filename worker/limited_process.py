"""Runs a subprocess that reads a data file, within limits of time and memory, and returns its last message.

The subprocess has no credentials. It writes JSON lines to standard output: progress (`{"done": ...}`), and at the end
one other message. It applies the limits to itself with `limit_this_process`.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from app.core.spec.subprocess_environment import PARENT_PID
from worker import parent_death
from worker.child_process import ChildProcess, describe_exit, log_tail

log = structlog.get_logger(__name__)

PROGRESS_SECONDS: Final = 1.0
_TICK_SECONDS: Final = 1.0
_FAILED: Final = {"failed": "memory"}


@dataclass(frozen=True)
class ProcessLimits:
    """Limits of the subprocess that reads a file."""

    seconds: int = 1800
    """Limit of its CPU time, and of its wall-clock time."""
    silent_seconds: float = 120.0
    """Longest time without a progress report."""
    memory_bytes: int = 2 << 30
    """Address space, including libraries."""


class Stopped(Exception):
    """The subprocess ended without a result. The message is the end of a sentence about it."""


def run(
    module: str, arguments: Sequence[str], log_file: Path, keep: Callable[[], None], limits: ProcessLimits
) -> dict[str, Any]:
    """Run `python -m module ARGUMENTS SECONDS BYTES` and return its last message.

    Calls `keep` about once a second and raises its errors. Raises `Stopped`.
    """
    words = (*arguments, str(limits.seconds), str(limits.memory_bytes))
    child = ChildProcess([sys.executable, "-m", module, *words], log_file)
    try:
        answer = _answer(child, keep, limits)
    finally:
        child.kill()
        code = child.wait()
    memory = f"{limits.memory_bytes / 1e9:.1f} GB of memory"
    if answer == _FAILED:
        raise Stopped(f"needed more than {memory} and was stopped")
    if answer is None:
        log.error("limited_process.died", module=module, code=code, tail=log_tail(log_file))
        raise Stopped(f"{describe_exit(code)}; it may use {memory} and {limits.seconds:,} s")
    return answer


def _answer(child: ChildProcess, keep: Callable[[], None], limits: ProcessLimits) -> dict[str, Any] | None:
    """Return the last message of the subprocess, None if it ends without one. Raises `Stopped` past the limits."""
    ends_at = time.monotonic() + limits.seconds
    silent_at = time.monotonic() + limits.silent_seconds
    for line in child.lines_and_pauses(_TICK_SECONDS):
        keep()
        if line is not None:
            message: dict[str, Any] = json.loads(line)
            if "done" not in message:
                return message
            silent_at = time.monotonic() + limits.silent_seconds
        _check_time(ends_at, silent_at, limits)
    return None


def _check_time(ends_at: float, silent_at: float, limits: ProcessLimits) -> None:
    now = time.monotonic()
    if now > ends_at:
        raise Stopped(f"took longer than {limits.seconds:,} s and was stopped")
    if now > silent_at:
        raise Stopped(f"made no progress for {limits.silent_seconds:g} s and was stopped")


def limit_this_process(seconds: int, size: int) -> None:
    """Limit CPU time and address space of this process, and end it together with its parent."""
    if parent := os.environ.get(PARENT_PID):
        parent_death.die_with(int(parent))
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))  # SIGXCPU before SIGKILL: it names the reason
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(work: Callable[[], dict[str, Any]]) -> int:
    """Run `work` in the subprocess under the limits of its arguments, send its message, return the exit code."""
    limit_this_process(int(sys.argv[-2]), int(sys.argv[-1]))
    try:
        message = work()
    except MemoryError:
        message = _FAILED
    send(message)
    return 0


def send(message: dict[str, Any]) -> None:
    """Write one message for the parent process."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class Progress:
    """Sends progress at most once a second."""

    def __init__(self) -> None:
        self._next = time.monotonic() + PROGRESS_SECONDS

    def __call__(self, done: int, total: int | None = None) -> None:
        """Report the work done so far, in any unit."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_SECONDS
            send({"done": done, "total": total})
