"""Starts the trainers of whole installations in milliseconds: forked from a process that has imported torch.

`tests/interpreter/sitecustomize.py` is the client: the beginning of a process that a worker starts as its trainer.
"""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from app.core.spec.subprocess_environment import PARENT_PID
from tests import forked
from tests.interpreter.sitecustomize import SERVER
from tests.waiting import eventually
from worker.parent_death import die_with

CLIENT: Final = Path(__file__).with_name("interpreter")


@contextmanager
def trainer_server(path: Path) -> Iterator[dict[str, str]]:
    """Run a server on the socket `path`; yield the variables of an installation that uses it."""
    process = forked.start(_serve, str(path))
    try:
        eventually(path.exists)
        others = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
        yield {SERVER: str(path), "PYTHONPATH": os.pathsep.join([str(CLIENT), *others])}
    finally:
        process.kill()
        process.join()


def _serve(path: str) -> None:
    die_with(os.getppid())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the keepers
    gc.freeze()
    server = os.getpid()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                die_with(server)
                _keep(connection)
            connection.close()


def _keep(connection: socket.socket) -> None:
    """Fork one trainer, pass signals on to it, and send its exit status. It dies with its client."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    content, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    while not content.endswith(b"\n"):
        content += connection.recv(1 << 16)
    pid = os.fork()
    if pid == 0:
        connection.close()
        _run(json.loads(content), streams)
    for stream in streams:
        os.close(stream)
    connection.send(f"{pid}\n".encode())
    pidfd, poller = os.pidfd_open(pid), select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.register(connection, select.POLLIN)
    while not any(ready == pidfd for ready, _ in poller.poll()):
        if number := connection.recv(1):
            os.kill(pid, number[0])
        else:
            poller.unregister(connection)
            os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # its children
    with suppress(BrokenPipeError):
        connection.send(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _run(request: dict[str, Any], streams: list[int]) -> None:
    """Run the program as a new process would, in a session of its own."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, 1024)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"] | {PARENT_PID: str(os.getppid())})
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - multiprocessing has replaced it by /dev/null
    module, *arguments = request["arguments"]
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # as the interpreter does
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
