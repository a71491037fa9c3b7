"""Whom keys belong to, remembered for a second: who polls sends far more requests than keys ever change.

What this process changes it forgets at once; another process of the API may take a revoked key for a second more.
"""

import hashlib
import threading
import time
from typing import Final

from app.core.accounts.api_keys import Identity

KEPT_SECONDS: Final = 1.0
MAX_KEPT: Final = 10_000


class Identities:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[bytes, tuple[float, Identity]] = {}
        self._forgotten_at = 0.0

    def get(self, key: str) -> Identity | None:
        """Of a key's text, if it was good within the last second."""
        until, identity = self._known.get(_digest(key), (0.0, None))
        return identity if time.monotonic() < until else None

    def put(self, key: str, identity: Identity, asked_at: float) -> None:
        """Remembers what the database said of a key; `asked_at` (monotonic) is when it was asked."""
        with self._lock:
            if len(self._known) >= MAX_KEPT:
                self._known.clear()
            if asked_at > self._forgotten_at:  # else the answer may be from before the change
                self._known[_digest(key)] = (asked_at + KEPT_SECONDS, identity)

    def forget(self) -> None:
        """After any change of keys and projects, once it is committed."""
        with self._lock:
            self._forgotten_at = time.monotonic()
            self._known.clear()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()
