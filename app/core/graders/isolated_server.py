"""The fork server: imports a check once and forks workers on request: `python -m ... CHECK FD PARENT_PID NICENESS`.

Importing sympy or nltk takes about a second and a fork milliseconds, so a hanging worker is cheap to kill and replace.
The pool's own process cannot fork workers: it has threads, and often torch. Never import this module elsewhere.
"""

import ctypes
import gc
import importlib
import logging
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

from app.core.graders.isolated import COMMAND, SPAWN, receive, send

_MEMORY_BYTES: Final = 2 << 30
_ORPHAN_CHECK_SECONDS: Final = 2.0
_PR_SET_PDEATHSIG: Final = 1

Check = Callable[..., dict[str, Any]]
"""JSON arguments -> `{"value": ...}` or `{"error": str}`."""


def serve(control: socket.socket, parent_pid: int, check: Check) -> None:
    """Fork and kill workers on command until the parent is gone; the workers end with this process.

    PDEATHSIG is no option here: it fires when the parent *thread* ends, and a short-lived thread may have started us.
    """
    children: set[int] = set()
    while os.getppid() == parent_pid:
        if not select.select([control], [], [], _ORPHAN_CHECK_SECONDS)[0]:
            continue
        message, fds, _, _ = socket.recv_fds(control, COMMAND.size, 1)
        if len(message) < COMMAND.size:
            return
        command, pid = COMMAND.unpack(message)
        if command == SPAWN:
            pid = _fork(control, fds[0], check)
            children.add(pid)
        elif pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            children.discard(pid)
        control.sendall(COMMAND.pack(command, pid))


def _fork(control: socket.socket, fd: int, check: Check) -> int:
    server_pid = os.getpid()
    pid = os.fork()
    if pid:
        os.close(fd)
        return pid
    control.close()
    _work(socket.socket(fileno=fd), server_pid, check)


def _work(requests: socket.socket, server_pid: int, check: Check) -> NoReturn:
    try:
        _die_with_parent(server_pid)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        send(requests, {"ready": True})
        while (request := receive(requests)) is not None:
            send(requests, _verdict(check, request))
    finally:
        os._exit(0)


def _verdict(check: Check, arguments: list[Any]) -> dict[str, Any]:
    try:
        return check(*arguments)
    except Exception as error:  # an exception of a library is the result of this call; the worker must survive it
        return {"error": f"{type(error).__name__}: {str(error)[:200]}"}


def _die_with_parent(parent_pid: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # the worker died before the line above
        os._exit(0)


def main() -> None:
    os.nice(int(sys.argv[4]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C; this process ends when the parent does
    logging.disable(logging.CRITICAL)  # math-verify warns that its time-outs are off; the pool's kill replaces them
    check = importlib.import_module(f"app.core.graders.checks.{sys.argv[1]}").check
    control = socket.socket(fileno=int(sys.argv[2]))
    gc.freeze()
    serve(control, int(sys.argv[3]), check)


if __name__ == "__main__":
    main()
