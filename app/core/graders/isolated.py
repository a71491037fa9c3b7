"""A pool of killable processes for checks that can hang or exhaust memory. `isolated_server` is their side.

A call over its limit loses only its worker: the fork server starts a new one within milliseconds.
"""

import contextlib
import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any, Final, Self

from app.core.deadline import Deadline
from app.core.graders.types import ErrorType, GraderFailure

COMMAND: Final = struct.Struct("!cI")
"""Message between pool and server: a command (echoed in the reply) and the worker's pid."""
SPAWN: Final = b"s"
KILL: Final = b"k"

_LENGTH: Final = struct.Struct("!I")
_START_SECONDS: Final = 60.0
"""Time to import the check on a cold disk; it does not count against a call's limit."""
_STOP_SECONDS: Final = 5.0


def default_workers() -> int:
    """Default number of processes at once."""
    return min(4, os.cpu_count() or 1)


class IsolatedPool:
    """Runs one check (a module of `app.core.graders.checks`) in at most `workers` processes at once.

    Processes start on first use. A call that takes longer than `limit_seconds` is killed and raises GraderFailure.
    Thread-safe.
    """

    def __init__(
        self, check: str, workers: int | None = None, limit_seconds: float = 5.0, *, niceness: int = 0
    ) -> None:
        self.check = check
        self.workers = workers or default_workers()
        self.limit_seconds = limit_seconds
        self._server = _Server(check, niceness)
        self._free: list[_Worker | None] = [None] * self.workers
        """Idle processes; None for one that does not run yet."""
        self._freed = threading.Condition()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, *arguments: Any, deadline: Deadline | None = None) -> Any:
        """Run the check on `arguments`, which must be JSON, and return its result. Raises GraderFailure.

        At the deadline, a call that waits for a process or runs in one ends, and its process is killed.
        """
        deadline = deadline or Deadline()
        slot = self._take(deadline)
        try:
            if slot is not None and slot.is_dead():  # the worker died while idle, so this call is not the cause
                self._server.kill(slot)
                slot = None
            worker, slot = slot or self._spawn(), None
            try:
                with deadline.interrupting(worker.interrupt):
                    verdict = worker.ask(arguments, deadline.left(self.limit_seconds))
            except BaseException as error:  # also on Ctrl-C: the next call must not read this call's reply
                self._server.kill(worker)
                if isinstance(error, OSError | EOFError):
                    raise self._failure(error, deadline) from error
                raise
            slot = worker
        finally:
            self._give_back(slot)
        if "error" in verdict:
            raise GraderFailure(verdict["error"])
        return verdict["value"]

    def close(self) -> None:
        """End all processes, even during a check; a later call starts new ones."""
        self._server.stop()
        idle = [self._take(Deadline()) for _ in range(self.workers)]
        self._server.stop()  # a call that waited for a slot may have started another server
        for worker in idle:
            if worker is not None:
                worker.peer.close()
            self._give_back(None)

    def _take(self, deadline: Deadline) -> "_Worker | None":
        """Wait for a process that is free. Raises GraderFailure at the deadline."""
        with deadline.interrupting(self._wake), self._freed:
            self._freed.wait_for(lambda: self._free or deadline.has_passed, deadline.left())
            if deadline.has_passed:
                self._freed.notify()  # this call may have received the notification that another one needs
                raise GraderFailure(f"no process was free for the {self.check} check in time", ErrorType.unresponsive)
            return self._free.pop()

    def _give_back(self, worker: "_Worker | None") -> None:
        with self._freed:
            self._free.append(worker)
            self._freed.notify()

    def _wake(self) -> None:
        with self._freed:
            self._freed.notify_all()

    def _spawn(self) -> "_Worker":
        try:
            return self._server.spawn()
        except (OSError, EOFError) as error:
            raise GraderFailure(
                f"the workers of the {self.check} check do not start: {error or type(error).__name__}"
            ) from error

    def _failure(self, error: Exception, deadline: Deadline) -> GraderFailure:
        if deadline.has_passed:
            message = f"the {self.check} check was killed at the deadline of the request"
            return GraderFailure(message, ErrorType.unresponsive)
        if isinstance(error, TimeoutError):
            message = f"the {self.check} check took longer than {self.limit_seconds:g} s and was killed"
            return GraderFailure(message, ErrorType.unresponsive)
        return GraderFailure(f"the worker of the {self.check} check died, perhaps because it ran out of memory")


class _Worker:
    def __init__(self, peer: socket.socket, pid: int) -> None:
        self.peer = peer
        self.pid = pid

    def is_dead(self) -> bool:
        """Return whether the connection is closed: between requests there is nothing else to read."""
        return bool(select.select([self.peer], [], [], 0)[0])

    def interrupt(self) -> None:
        """End a call of `ask` in another thread, which raises EOFError then."""
        with contextlib.suppress(OSError):
            self.peer.shutdown(socket.SHUT_RDWR)

    def ask(self, request: object, limit_seconds: float) -> Any:
        """Return the worker's reply. Raises TimeoutError, EOFError (the worker died) or OSError."""
        deadline = time.monotonic() + limit_seconds
        self.peer.settimeout(max(limit_seconds, 1e-6))
        send(self.peer, request)
        return self.receive(deadline)

    def receive(self, deadline: float) -> Any:
        answer = receive(self.peer, deadline)
        if answer is None:
            raise EOFError("the worker has ended")
        return answer


class _Server:
    """Return the fork server, which starts at the first spawn and again after it died."""

    def __init__(self, check: str, niceness: int) -> None:
        self._check, self._niceness = check, niceness
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def spawn(self) -> _Worker:
        """Return a worker that is ready. Raises OSError or EOFError."""
        ours, theirs = socket.socketpair()
        try:
            with self._lock, theirs:
                control = self._control if self._alive() and self._control else self._start()
                pid = self._exchange(control, SPAWN, 0, [theirs.fileno()])
            worker = _Worker(ours, pid)
            worker.receive(time.monotonic() + _START_SECONDS)
        except BaseException:
            ours.close()
            raise
        return worker

    def kill(self, worker: _Worker) -> None:
        """Kill and reap `worker` through its parent, the fork server: only a parent can rule out a reused pid."""
        worker.peer.close()
        with self._lock:
            if self._control is None or not self._alive():
                return  # the server died, and its workers with it
            with contextlib.suppress(
                OSError, EOFError
            ):  # on an error `_exchange` stops the server, and its workers with it
                self._exchange(self._control, KILL, worker.pid, [])

    def stop(self) -> None:
        with self._lock:
            self._stop()

    def _exchange(self, control: socket.socket, command: bytes, pid: int, fds: list[int]) -> int:
        try:
            socket.send_fds(control, [COMMAND.pack(command, pid)], fds)
            answer = _exactly(control, COMMAND.size, None)
            if not answer:
                raise EOFError("the fork server ended; see its message on standard error")
            return int(COMMAND.unpack(answer)[1])
        except BaseException:  # also on Ctrl-C: the rest of this exchange must not be read as the reply to the next one
            self._stop()
            raise

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _start(self) -> socket.socket:
        self._stop()
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = [self._check, str(theirs.fileno()), str(os.getpid()), str(self._niceness)]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app.core.graders.isolated_server", *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # the trainer's own stdout carries its reports
                env=_environment(),
            )
        ours.settimeout(_START_SECONDS)
        self._control = ours
        return ours

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()  # the server ends when it reads end-of-file here
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def _environment() -> dict[str, str]:
    """Return an environment without secrets (checks process model output) and with the hash seed that sympy needs."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
        "PYTHONHASHSEED": "0",
        "OPENBLAS_NUM_THREADS": "1",  # BLAS threads would not survive the forks, and take memory for each core
    }


def send(peer: socket.socket, value: object) -> None:
    """Send one length-prefixed JSON value. Raises OSError."""
    data = json.dumps(value).encode()
    peer.sendall(_LENGTH.pack(len(data)) + data)


def receive(peer: socket.socket, deadline: float | None = None) -> Any:
    """Receive the next value; None when the peer closed. Raises TimeoutError at `deadline` (of time.monotonic)."""
    header = _exactly(peer, _LENGTH.size, deadline)
    data = header and _exactly(peer, _LENGTH.unpack(header)[0], deadline)
    return json.loads(data) if data else None


def _exactly(peer: socket.socket, size: int, deadline: float | None) -> bytes:
    data = b""
    while len(data) < size:
        if deadline is not None:
            peer.settimeout(max(deadline - time.monotonic(), 1e-6))
        chunk = peer.recv(size - len(data))
        if not chunk:
            return b""
        data += chunk
    return data
