"""Killable workers for checks that can hang or eat memory. The other end of the sockets is `isolated_server`.

A call over its limit costs its worker's life and nothing else: the server forks a new one in milliseconds.
"""

import contextlib
import json
import os
import queue
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any, Final, Self

from app.core.graders.types import ErrorType, GraderFailure

COMMAND: Final = struct.Struct("!cI")
"""Between pool and server: a command (echoed in the answer) and the worker's pid."""
SPAWN: Final = b"s"
KILL: Final = b"k"

_LENGTH: Final = struct.Struct("!I")
_START_SECONDS: Final = 60.0
"""Importing may be slow on a cold disk; it does not count against a call's limit."""
_STOP_SECONDS: Final = 5.0


def default_workers() -> int:
    """Processes at once, where nobody says how many."""
    return min(4, os.cpu_count() or 1)


class IsolatedPool:
    """Runs one check (a module of `app.core.graders.checks`) in at most `workers` processes at once.

    It starts none before it must. A call that takes longer than `limit_seconds` is killed and raises GraderFailure.
    Thread-safe.
    """

    def __init__(self, check: str, workers: int | None = None, limit_seconds: float = 5.0) -> None:
        self.check = check
        self.workers = workers or default_workers()
        self.limit_seconds = limit_seconds
        self._server = _Server(check)
        self._slots: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(self.workers):
            self._slots.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, *arguments: Any) -> Any:
        """What the check makes of `arguments`, which must be JSON. Raises GraderFailure."""
        slot = self._slots.get()
        try:
            if slot is not None and slot.is_dead():  # while idle, so this call is not to blame
                self._server.kill(slot)
                slot = None
            worker, slot = slot or self._spawn(), None
            try:
                verdict = worker.ask(arguments, self.limit_seconds)
            except BaseException as error:  # also Ctrl-C: the next call must not read this call's answer
                self._server.kill(worker)
                if isinstance(error, OSError | EOFError):
                    raise self._failure(error) from error
                raise
            slot = worker
        finally:
            self._slots.put(slot)
        if "error" in verdict:
            raise GraderFailure(verdict["error"])
        return verdict["value"]

    def close(self) -> None:
        """Ends all processes, also in the middle of a check; a later call starts them anew."""
        self._server.stop()
        idle = [self._slots.get() for _ in range(self.workers)]
        self._server.stop()  # a call that waited for a slot may have started another
        for worker in idle:
            if worker is not None:
                worker.peer.close()
            self._slots.put(None)

    def _spawn(self) -> "_Worker":
        try:
            return self._server.spawn()
        except (OSError, EOFError) as error:
            raise GraderFailure(
                f"the workers of the {self.check} check do not start: {error or type(error).__name__}"
            ) from error

    def _failure(self, error: Exception) -> GraderFailure:
        if isinstance(error, TimeoutError):
            message = f"the {self.check} check took longer than {self.limit_seconds:g} s and was killed"
            return GraderFailure(message, ErrorType.unresponsive)
        return GraderFailure(f"the worker of the {self.check} check died, perhaps for want of memory")


class _Worker:
    def __init__(self, peer: socket.socket, pid: int) -> None:
        self.peer = peer
        self.pid = pid

    def is_dead(self) -> bool:
        """Between requests there is nothing to read but the end."""
        return bool(select.select([self.peer], [], [], 0)[0])

    def ask(self, request: object, limit_seconds: float) -> Any:
        """The answer. Raises TimeoutError, EOFError (it died) or OSError."""
        deadline = time.monotonic() + limit_seconds
        self.peer.settimeout(limit_seconds)
        send(self.peer, request)
        return self.receive(deadline)

    def receive(self, deadline: float) -> Any:
        answer = receive(self.peer, deadline)
        if answer is None:
            raise EOFError("the worker is gone")
        return answer


class _Server:
    """The fork server: started at the first spawn, and again when it has died."""

    def __init__(self, check: str) -> None:
        self._check = check
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def spawn(self) -> _Worker:
        """A worker that is ready. Raises OSError or EOFError."""
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
        """Ends and reaps `worker`, through its parent, the server: only that knows the pid is not reused."""
        worker.peer.close()
        with self._lock:
            if self._control is None or not self._alive():
                return  # its workers died with it
            with contextlib.suppress(OSError, EOFError):  # then the server is stopped, which also ends it
                self._exchange(self._control, KILL, worker.pid, [])

    def stop(self) -> None:
        with self._lock:
            self._stop()

    def _exchange(self, control: socket.socket, command: bytes, pid: int, fds: list[int]) -> int:
        try:
            socket.send_fds(control, [COMMAND.pack(command, pid)], fds)
            answer = _exactly(control, COMMAND.size, None)
            if not answer:
                raise EOFError("the fork server ended; its message is on standard error")
            return int(COMMAND.unpack(answer)[1])
        except BaseException:  # also Ctrl-C: the rest of this exchange must not be read as the next one's
            self._stop()
            raise

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _start(self) -> socket.socket:
        self._stop()
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = [self._check, str(theirs.fileno()), str(os.getpid())]
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
            self._control.close()  # the server ends when it reads the end of this
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def _environment() -> dict[str, str]:
    """No secrets, since it evaluates what a model wrote; a fixed hash seed, as sympy's order needs one."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
        "PYTHONHASHSEED": "0",
        "OPENBLAS_NUM_THREADS": "1",  # its threads would not survive the forks, and need memory for each core
    }


def send(peer: socket.socket, value: object) -> None:
    """One length-prefixed JSON value. Raises OSError."""
    data = json.dumps(value).encode()
    peer.sendall(_LENGTH.pack(len(data)) + data)


def receive(peer: socket.socket, deadline: float | None = None) -> Any:
    """The next value, None when the peer is gone. Raises TimeoutError at `deadline` (of time.monotonic)."""
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
