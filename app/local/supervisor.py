"""Keeps child processes running and leaves none behind, neither after `stop` nor after its own kill -9.

One thread starts, restarts and stops all children. It lives until the last child has ended, because PR_SET_PDEATHSIG
is tied to the *thread* that started the child: if that thread ended, the kernel would kill the child. The thread sleeps
in `select` until a pidfd is readable (a child has ended), until the wake pipe is readable (a signal or a command has
arrived), or until the next restart is due.
"""

import contextlib
import os
import select
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from app.local.errors import LocalStackError
from app.local.lock import StateLock
from app.local.process import Child, ChildFailed, ChildSpec, describe_exit

GUARD_SCRIPT = Path(__file__).with_name("guard.py")
GUARD_WAIT_SECONDS = 10.0
HURRIED_GRACE_SECONDS = 1.0
WAKE_BYTE = b"\0"
WAKE_READ_BYTES = 4096
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Guard:
    """Starts the guard process, which outlives a killed supervisor just long enough to kill its children's groups."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # out of reach of signals to the supervisor's process group
        )

    def watch(self, group: int) -> None:
        self._write(f"+{group}\n")

    def forget(self, group: int) -> None:
        self._write(f"-{group}\n")

    def close(self) -> None:
        """End the guard and wait for it. Call this only when no child is left."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait(GUARD_WAIT_SECONDS)

    def _write(self, line: str) -> None:
        if self._process.stdin is not None:
            # The pipe is broken if the guard was killed. PR_SET_PDEATHSIG still covers the direct children.
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()


class _Slot:
    """State of one supervised child: its spec, its process while it runs, and its failures."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.child: Child | None = None
        self.quick_failures = 0
        self.restart_at = float("inf")
        self.is_kept = False
        """Whether the child was ready once: it is restarted for as long as the supervisor runs."""


class Supervisor:
    """Context manager that supervises the children of one state directory. Not reusable after `stop`.

    In the main thread it also handles SIGINT, SIGTERM and SIGHUP. The first signal raises KeyboardInterrupt there, so
    that the `with` block unwinds. The second signal shortens the grace period of every child to one second.
    """

    def __init__(self, state_dir: Path, *, progress: Callable[[str], None] = lambda _message: None) -> None:
        self._lock = StateLock(state_dir)
        self._progress = progress
        self._slots: list[_Slot] = []
        self._commands: deque[Callable[[], None]] = deque()
        # Plain flags instead of Events: a signal handler can interrupt any line, also while it holds an Event's lock.
        self._stopping = False
        self._hurried = False
        self._interrupted = False
        self._signals_seen = 0
        self._failure: LocalStackError | None = None
        self._closed = False
        self._old_wakeup_fd = -1
        self._old_handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        """Take the lock and start the thread. Raises `AlreadyRunning` if another process uses the state directory."""
        self._lock.acquire()
        self._notice_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._wake_fd, self._wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_fd, selectors.EVENT_READ)
        self._guard = Guard()
        # A daemon, so that it cannot keep a failing interpreter alive; otherwise `stop` always joins it.
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()
        if threading.current_thread() is threading.main_thread():
            # Python's C signal handler writes the signal's number to this pipe, which wakes the thread's `select`.
            self._old_wakeup_fd = signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
            for number in STOP_SIGNALS:
                self._old_handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, spec: ChildSpec) -> int:
        """Start a child and keep it running; returns its first process id. Raises what `before_start` raises."""
        result: Future[int] = Future()
        if self._stopping:
            raise LocalStackError(f"Cannot start {spec.name}: the supervisor is stopping.")
        self._commands.append(lambda: self._start_for(spec, result))
        self._wake()
        return result.result()

    def keep(self, *names: str) -> None:
        """Never give up the children with these names again, however often they end: they have been ready once."""
        self._commands.append(lambda: self._keep(names))
        self._wake()

    def wait(self, seconds: float | None = None) -> None:
        """Block for `seconds`, or until the supervisor stops; raises `ChildFailed` once a child has failed permanently.

        Waits in `poll`, not on a lock: Python would handle a signal that arrives just before the lock blocks only
        after the lock is released.
        """
        if not self._closed:
            poller = select.poll()
            poller.register(self._notice_fd, select.POLLIN)
            poller.poll(None if seconds is None else seconds * 1000)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Stop all children in reverse order of their start. When it returns, no process of theirs is left."""
        if self._closed:
            return
        self._closed = True
        self._stopping = True
        self._wake()
        self._thread.join()
        self._guard.close()
        self._selector.close()
        if self._old_handlers:
            signal.set_wakeup_fd(self._old_wakeup_fd)
        os.close(self._wake_fd)
        os.close(self._wake_writer)
        os.close(self._notice_fd)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._lock.release()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._interrupted and not self._closed:
            self._interrupted = True
            raise KeyboardInterrupt

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes the thread as well
            os.write(self._wake_writer, WAKE_BYTE)

    def _drain_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for byte in os.read(self._wake_fd, WAKE_READ_BYTES):
                self._signals_seen += byte in STOP_SIGNALS
        # Signals are counted here, not in the handler: if two arrive together, the second interrupts the handler of
        # the first.
        if self._signals_seen >= 1:
            self._stopping = True
            self._notify()
        if self._signals_seen >= 2:
            self._hurried = True

    def _notify(self) -> None:
        os.eventfd_write(self._notice_fd, 1)  # never read, so it stays readable: stopping and failing are final

    # All methods below run in the supervisor's thread.

    def _run(self) -> None:
        try:
            self._watch()
        except Exception as error:  # a bug here must not leave `wait` blocked forever
            self._failure = LocalStackError(f"The supervisor failed: {error!r}")
            self._notify()
            raise
        finally:
            while self._commands:
                self._commands.popleft()()  # sees `_stopping` and fails the future of its caller
            for slot in reversed(self._slots):
                self._stop_slot(slot)

    def _watch(self) -> None:
        while not self._stopping:
            due = min((slot.restart_at for slot in self._slots), default=float("inf"))
            timeout = None if due == float("inf") else max(0.0, due - time.monotonic())
            for key, _ in self._selector.select(timeout):
                if isinstance(key.data, _Slot):
                    self._on_exit(key.data)
                else:
                    self._drain_wakes()
            while self._commands and not self._stopping:
                self._commands.popleft()()
            for slot in self._slots:
                if slot.restart_at <= time.monotonic() and not self._stopping:
                    self._restart(slot)

    def _start_for(self, spec: ChildSpec, result: "Future[int]") -> None:
        slot = _Slot(spec)
        try:
            if self._stopping:
                raise LocalStackError(f"Cannot start {spec.name}: the supervisor is stopping.")
            pid = self._spawn(slot)
        except Exception as error:  # re-raised in the caller of `start`
            result.set_exception(error)
        else:
            self._slots.append(slot)
            result.set_result(pid)

    def _keep(self, names: tuple[str, ...]) -> None:
        for slot in self._slots:
            slot.is_kept = slot.is_kept or slot.spec.name in names

    def _spawn(self, slot: _Slot) -> int:
        slot.restart_at = float("inf")
        slot.child = child = Child(slot.spec)
        if slot.spec.death_signal == signal.SIGKILL:  # Postgres ends its own group, in order
            self._guard.watch(child.pid)
        self._selector.register(child.pidfd, selectors.EVENT_READ, slot)
        return child.pid

    def _restart(self, slot: _Slot) -> None:
        try:
            self._spawn(slot)
        except Exception as error:  # no caller to raise it in: reported like a crash
            slot.quick_failures += 1
            self._retry(slot, f"could not be restarted ({error})", give_up=True)

    def _collect(self, slot: _Slot, child: Child) -> int:
        self._selector.unregister(child.pidfd)
        status = child.reap()
        self._guard.forget(child.pid)
        slot.child = None
        return status

    def _on_exit(self, slot: _Slot) -> None:
        child = slot.child
        if child is None:
            return
        exit_text = describe_exit(self._collect(slot, child))
        policy = slot.spec.restart
        stable = time.monotonic() - child.started_at >= policy.stable_seconds
        slot.quick_failures = 1 if stable else slot.quick_failures + 1
        slot.is_kept = slot.is_kept or stable
        quickly = f"ended {slot.quick_failures} times right after its start (last with {exit_text})"
        give_up = slot.quick_failures >= policy.max_quick_failures
        self._retry(slot, quickly if give_up else f"ended with {exit_text}", give_up=give_up)

    def _retry(self, slot: _Slot, problem: str, *, give_up: bool) -> None:
        """Restart the child after a delay, or give it up if it should be and was never ready."""
        if give_up and not slot.is_kept:
            self._give_up(slot, problem)
            return
        delay_seconds = slot.spec.restart.delay_seconds(slot.quick_failures)
        slot.restart_at = time.monotonic() + delay_seconds
        self._progress(f"{slot.spec.name} {problem}. Restarting it in {delay_seconds:g} s.")

    def _give_up(self, slot: _Slot, reason: str) -> None:
        slot.restart_at = float("inf")
        self._failure = ChildFailed(slot.spec.name, reason, slot.spec.log_path)
        self._notify()

    def _stop_slot(self, slot: _Slot) -> None:
        child = slot.child
        if child is None:
            return
        self._progress(f"Stopping {slot.spec.name}")
        child.send(slot.spec.stop_signal)
        deadline = time.monotonic() + slot.spec.stop_grace_seconds
        while not self._hurried and (left := deadline - time.monotonic()) > 0:
            if child.wait(left, also_fd=self._wake_fd):
                break
            self._drain_wakes()
        if self._hurried:
            child.wait(min(HURRIED_GRACE_SECONDS, deadline - time.monotonic()))
        if not child.wait(0):
            self._progress(f"{slot.spec.name} did not stop in time. Killing it.")
            child.kill()
            child.wait(GUARD_WAIT_SECONDS)
        self._collect(slot, child)
