"""Whom keys belong to, remembered for a second: who polls sends far more requests than keys ever change.

What this process changes it forgets at once; another process of the API may take a revoked key for a second more.
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


class Identities:
    """Asked from one event loop; told to forget from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[bytes, tuple[float, Identity]] = {}
        self._asked: dict[bytes, asyncio.Task[Identity]] = {}
        self._forgotten_at = 0.0

    async def of(self, key: str, find: Callable[[], Identity]) -> Identity:
        """Whom a key's text belongs to, as `find` says; called in a thread, once for all who ask meanwhile.

        Raises as `find`.
        """
        digest = _digest(key)
        until, identity = self._known.get(digest, (0.0, None))
        if identity is not None and time.monotonic() < until:
            return identity
        asked = self._asked.get(digest)
        if asked is None:
            asked = self._asked[digest] = asyncio.create_task(self._ask(digest, find))
        return await asyncio.shield(asked)  # one who goes away leaves it to the others

    async def _ask(self, digest: bytes, find: Callable[[], Identity]) -> Identity:
        asked_at = time.monotonic()
        try:
            identity = await run_in_threadpool(find)
        finally:
            if self._asked.get(digest) is asyncio.current_task():  # else it was forgotten, and is asked anew
                del self._asked[digest]
        self._put(digest, identity, asked_at)
        return identity

    def _put(self, digest: bytes, identity: Identity, asked_at: float) -> None:
        with self._lock:
            if len(self._known) >= MAX_KEPT:
                self._known.clear()
            if asked_at > self._forgotten_at:  # else the answer may be from before the change
                self._known[digest] = (asked_at + KEPT_SECONDS, identity)

    def forget(self) -> None:
        """After any change of keys and projects, once it is committed."""
        with self._lock:
            self._forgotten_at = time.monotonic()
            self._known.clear()
            self._asked.clear()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()
