"""Processes of our own code that tests kill: forked from a server that has imported it already, in milliseconds."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["app.main", "worker.runner"])


def start(target: Callable[..., object], *arguments: Any) -> ForkServerProcess:
    """Runs a function of a module in a process of its own."""
    process = _CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process
