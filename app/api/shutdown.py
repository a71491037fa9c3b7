"""Hears SIGTERM and SIGINT beside the server, which waits for open answers to end before it tells the app."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def calling(stopping: Callable[[], None]) -> Iterator[None]:
    """Within it `stopping` is called in the running event loop as soon as the process is told to stop.

    Does nothing outside of the main thread, where Python delivers no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stopping)
        inner: Any = before[signal.Signals(number)]
        if callable(inner):
            inner(number, frame)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, inner in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, inner)
