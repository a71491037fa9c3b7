"""The process that imports math-verify once and forks workers on request: `python -m ... FD PARENT_PID`.

Importing sympy takes about a second, a fork milliseconds, so a worker that hangs is killed and replaced.
The parent cannot fork its own workers: it has threads, and often torch. Never import this module elsewhere.
"""

import ctypes
import gc
import logging
import os
import re
import resource
import select
import signal
import socket
import sys
from typing import Any, Final, NoReturn

from math_verify import parse, verify

from app.core.graders.math_pool import COMMAND, SPAWN, receive, send

_MEMORY_BYTES: Final = 2 << 30
_ORPHAN_CHECK_SECONDS: Final = 2.0
_PR_SET_PDEATHSIG: Final = 1
# One line of symbols: no markdown, no words of three letters but the names of functions.
_BARE: Final = re.compile(
    r"(?!.*\*\*)(?!.*(?<![\w\\{])(?!(?:sin|cos|tan|cot|sec|csc|log|exp|sqrt|inf|det|max|min)\b)[^\W\d_]{3,}(?![\w({}]))"
    r"[\w \\{}()\[\]^+\-*/=<>.,;:!|'%]+"
)
_DELIMITED: Final = re.compile(r"\$|\\boxed|\\\(|\\\[")
_NUMERIC: Final = re.compile(r"-?[\d., ]+%?")


def check(reference: str, answer: str) -> dict[str, Any]:
    """{"equal": bool}, or {"error": str} when the reference holds no answer or the comparison fails."""
    golds = _parse(reference)
    if not golds:
        return {"error": f"the reference {reference[-80:]!r} holds no mathematical answer"}
    failure = None
    for gold in golds:
        for target in _parse(answer):
            try:
                # None: math-verify's own time-outs are signal.alarm, and ours is a kill from outside.
                if verify(gold, target, timeout_seconds=None, raise_on_error=True):
                    return {"equal": True}
            except Exception as error:  # sympy raises anything; that must not pass for a wrong answer
                failure = f"math-verify failed: {type(error).__name__}: {str(error)[:200]}"
    return {"equal": False} if failure is None else {"error": failure}


def _parse(text: str) -> list[Any]:
    """math-verify finds LaTeX only between delimiters, and would read a bare `2\\sqrt{3}` as 2."""
    text = text.strip()
    bare = _BARE.fullmatch(text) and not _DELIMITED.search(text) and not _NUMERIC.fullmatch(text)
    found = parse(f"${text}$", parsing_timeout=None) if bare else []
    return list(found or parse(text, parsing_timeout=None))


def serve(control: socket.socket, parent_pid: int) -> None:
    """Forks and kills on command until the parent is gone; its workers go with this process.

    No PDEATHSIG here: it fires when the *thread* that started us ends, and that may be a short-lived one.
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
            pid = _fork(control, fds[0])
            children.add(pid)
        elif pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            children.discard(pid)
        control.sendall(COMMAND.pack(command, pid))


def _fork(control: socket.socket, fd: int) -> int:
    server_pid = os.getpid()
    pid = os.fork()
    if pid:
        os.close(fd)
        return pid
    control.close()
    _work(socket.socket(fileno=fd), server_pid)


def _work(requests: socket.socket, server_pid: int) -> NoReturn:
    try:
        _die_with_parent(server_pid)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        send(requests, {"ready": True})
        while (request := receive(requests)) is not None:
            send(requests, check(*request))
    finally:
        os._exit(0)


def _die_with_parent(parent_pid: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the line above
        os._exit(0)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for our parent; we end when it does
    logging.disable(logging.CRITICAL)  # it warns that time-outs are off, which is the point of this module
    control = socket.socket(fileno=int(sys.argv[1]))
    for answer in (r"\boxed{\frac{1}{2}}", r"$x^2 + \sqrt{3}$", "the answer is 0.5"):
        check(r"$\frac{2}{4}$", answer)  # fills the parser's caches, which the workers inherit
    gc.freeze()
    serve(control, int(sys.argv[2]))


if __name__ == "__main__":
    main()
