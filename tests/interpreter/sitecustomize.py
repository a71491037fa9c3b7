"""Hands a trainer over to the server of `tests.trainer_server`: Python imports this file before a program starts.

A directory on PYTHONPATH makes Python find it, and `SERVER` names the socket of the server. The process passes its
arguments, environment and standard streams on, relays signals, and ends as the forked trainer ends.
"""

import os
import sys

MODULES = ("worker.training", "tests.worker.dying_trainer")
SERVER = "PYTHON_TRAINER_SERVER"
"""The prefix is that of Python's own variables, which a worker passes on to its trainers."""
OWN_INTERPRETER = "own_interpreter"
"""Metadata of a job whose trainer a test suspends, or whose start must take seconds."""
NAME = "forked-"
"""Begins the name of a process that waits for a forked one; that one's id follows."""


def _is_forkable(run_dir: str) -> bool:
    with open(os.path.join(run_dir, "spec.json"), encoding="utf-8") as file:
        spec = file.read()
    return OWN_INTERPRETER not in spec and '"4bit"' not in spec  # the server cannot import bitsandbytes


def _hand_over(path: str) -> None:
    import json  # noqa: PLC0415 - other programs should not import this
    import signal  # noqa: PLC0415
    import socket  # noqa: PLC0415

    from worker.parent_death import die_with  # noqa: PLC0415

    die_with(int(os.environ["GROUPTUNE_PARENT_PID"]))
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        request = {"arguments": sys.orig_argv[2:], "directory": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(server, [json.dumps(request).encode() + b"\n"], [0, 1, 2])
        signal.signal(signal.SIGTERM, lambda number, _frame: server.send(bytes([number])))
        with server.makefile("r") as answers, open("/proc/self/comm", "w", encoding="ascii") as name:
            name.write(NAME + answers.readline().strip())
            name.flush()
            status = int(answers.readline() or -signal.SIGKILL)
    if status < 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if (
    SERVER in os.environ
    and sys.orig_argv[1:2] == ["-m"]
    and sys.orig_argv[2] in MODULES
    and _is_forkable(sys.orig_argv[-1])
):
    _hand_over(os.environ[SERVER])
