"""Handles SIGTERM and SIGINT in addition to the server.

The server waits for open responses to end before it shuts the app down, so endless streams must end at the signal.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def calling(stopping: Callable[[], None]) -> Iterator[None]:
    """Call `stopping` in the running event loop as soon as the process receives SIGTERM or SIGINT within the block.

    Does nothing outside the main thread, where Python delivers no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stopping)
        previous: Any = handlers[signal.Signals(number)]
        if callable(previous):
            previous(number, frame)

    for number in handlers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, previous in handlers.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, previous)
