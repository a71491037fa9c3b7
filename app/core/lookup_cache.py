"""A cache of database lookups that requests repeat much more often than their results change.

After a change, the process that made it clears its own cache at once. Other processes may use the old result for up to
`KEPT_SECONDS` more.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

KEPT_SECONDS: Final = 1.0
MAX_KEPT: Final = 10_000

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LookupCache(Generic[K, V]):
    """Maps the keys of lookups to their results. One event loop reads it; any thread may clear it."""

    def __init__(self, in_thread: Callable[[Callable[[], V]], Awaitable[V]]) -> None:
        """`in_thread` calls a lookup in a thread."""
        self._in_thread = in_thread
        self._lock = threading.Lock()
        self._cached: dict[K, tuple[float, V]] = {}
        self._lookups: dict[K, asyncio.Task[V]] = {}
        self._cleared_at = 0.0

    async def get(self, key: K, find: Callable[[], V]) -> V:
        """Return the result for a key from the cache, or call `find` in a thread.

        Concurrent requests with the same key share one call. Raises as `find`; errors are not cached.
        """
        cached = self._cached.get(key)
        if cached is not None and time.monotonic() < cached[0]:
            return cached[1]
        lookup = self._lookups.get(key)
        if lookup is None:
            lookup = self._lookups[key] = asyncio.create_task(self._look_up(key, find))
        return await asyncio.shield(lookup)  # a cancelled request must not cancel the lookup that others await

    async def _look_up(self, key: K, find: Callable[[], V]) -> V:
        started_at = time.monotonic()
        try:
            found = await self._in_thread(find)
        finally:
            # After `clear`, a newer lookup may stand here; only that one may remove itself.
            if self._lookups.get(key) is asyncio.current_task():
                self._lookups.pop(key, None)  # `clear` may run in another thread at this moment
        self._put(key, found, started_at)
        return found

    def _put(self, key: K, found: V, started_at: float) -> None:
        with self._lock:
            if len(self._cached) >= MAX_KEPT:
                self._cached.clear()
            if started_at > self._cleared_at:  # otherwise `find` may have read its rows before the change
                self._cached[key] = (started_at + KEPT_SECONDS, found)

    def clear(self) -> None:
        """Call it after every change of what the lookups read, once the change is committed."""
        with self._lock:
            self._cleared_at = time.monotonic()
            self._cached.clear()
            self._lookups.clear()
