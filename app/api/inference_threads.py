"""The blocking work of inference requests: the database, chat templates and tokenizers.

FastAPI's own threads serve all other routes, and a burst of inference requests must not delay those.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from fastapi import Request

THREADS: Final = 16
SHORT_BYTES: Final = 4_096
"""Body of a request whose chat takes less time to render than a change of threads does."""

T = TypeVar("T")


class InferenceThreads:
    """A pool of threads for the event loop of one API process."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, "inference")

    async def run(self, work: Callable[[], T]) -> T:
        """Return the result of `work`, called in a thread. Raises as `work`."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def prepare(self, request: Request, work: Callable[[], T]) -> T:
        """Return the result of `work`, which reads the body of `request` and waits for nothing. Raises as `work`."""
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) <= SHORT_BYTES:
            return work()
        return await self.run(work)

    def close(self) -> None:
        """Drop the work that has not begun; its requests have ended."""
        self._pool.shutdown(wait=False, cancel_futures=True)
