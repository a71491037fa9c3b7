"""Starts processes that tests kill, forked in milliseconds from a server that has already imported our code."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["app.main", "worker.runner"])


def start(target: Callable[..., object], *arguments: Any) -> ForkServerProcess:
    """Run a module-level function in a new process."""
    process = _CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process
