"""Threads for the blocking work of inference requests: the database, chat templates and tokenizers.

FastAPI's own threads serve all other routes, and a burst of inference requests must not delay those.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

THREADS: Final = 16

T = TypeVar("T")


class InferenceThreads:
    """A pool of threads for the event loop of one API process."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, "inference")

    async def run(self, work: Callable[[], T]) -> T:
        """Return the result of `work`, called in a thread. Raises as `work`."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """Drop the work that has not begun; its requests have ended."""
        self._pool.shutdown(wait=False, cancel_futures=True)
