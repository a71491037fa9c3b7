"""A cache of the identities behind API keys: a polling client sends far more requests than keys ever change.

After it changes a key or a project, a process clears its own cache at once. Another API process may accept a revoked
key for up to `KEPT_SECONDS` more.
"""

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable
from typing import Final

from fastapi.concurrency import run_in_threadpool

from app.core.accounts.api_keys import Identity

KEPT_SECONDS: Final = 1.0
MAX_KEPT: Final = 10_000


class KeyCache:
    """Maps the digest of a key to its identity. One event loop reads it; any thread may clear it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cached: dict[bytes, tuple[float, Identity]] = {}
        self._lookups: dict[bytes, asyncio.Task[Identity]] = {}
        self._cleared_at = 0.0

    async def get(self, key: str, find: Callable[[], Identity]) -> Identity:
        """Return the identity of a key's text from the cache, or call `find` in a thread.

        Concurrent requests with the same key share one call. Raises as `find`.
        """
        digest = _digest(key)
        expires_at, identity = self._cached.get(digest, (0.0, None))
        if identity is not None and time.monotonic() < expires_at:
            return identity
        lookup = self._lookups.get(digest)
        if lookup is None:
            lookup = self._lookups[digest] = asyncio.create_task(self._look_up(digest, find))
        return await asyncio.shield(lookup)  # a cancelled request must not cancel the lookup that others await

    async def _look_up(self, digest: bytes, find: Callable[[], Identity]) -> Identity:
        started_at = time.monotonic()
        try:
            identity = await run_in_threadpool(find)
        finally:
            # After `clear`, a newer lookup may stand here; only that one may remove itself.
            if self._lookups.get(digest) is asyncio.current_task():
                del self._lookups[digest]
        self._put(digest, identity, started_at)
        return identity

    def _put(self, digest: bytes, identity: Identity, started_at: float) -> None:
        with self._lock:
            if len(self._cached) >= MAX_KEPT:
                self._cached.clear()
            if started_at > self._cleared_at:  # otherwise `find` may have read the key before the change
                self._cached[digest] = (started_at + KEPT_SECONDS, identity)

    def clear(self) -> None:
        """Call it after every change of keys or projects, once the change is committed."""
        with self._lock:
            self._cleared_at = time.monotonic()
            self._cached.clear()
            self._lookups.clear()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()
