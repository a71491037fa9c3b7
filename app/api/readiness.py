"""Whether the server can do its work, for load balancers, which ask often and may be anybody."""

import asyncio
import time
from typing import Final

import structlog
from anyio import CapacityLimiter, to_thread

from app.core import migrate
from app.core.db import Database
from app.core.errors import DatabaseUnavailable, Overloaded
from app.core.storage.blobs import BlobStore, StorageUnavailable

log = structlog.get_logger(__name__)

KEPT_SECONDS: Final = 1.0


class Readiness:
    """Checks the database and the store at most once a second, in a thread and with a connection of its own.

    So a server that is busy stays ready, and many requests cost no more than one. Use it from its event loop only.
    """

    def __init__(self, database_url: str, store: BlobStore) -> None:
        self._database = Database(database_url, pool_size=1, pool_wait_seconds=1.0)
        self._store = store
        self._threads = CapacityLimiter(1)
        self._result: asyncio.Task[list[str]] | None = None
        self._until = 0.0

    async def problems(self) -> list[str]:
        """Return what keeps the server from its work; empty if it is ready."""
        running = self._result is not None and not self._result.done()
        if self._result is None or (not running and time.monotonic() >= self._until):
            self._result = asyncio.create_task(self._check())
        return await asyncio.shield(self._result)

    async def _check(self) -> list[str]:
        problems = await to_thread.run_sync(self._look, limiter=self._threads)
        self._until = time.monotonic() + KEPT_SECONDS
        return problems

    def _look(self) -> list[str]:
        return [*self._database_problems(), *self._storage_problems()]

    def _database_problems(self) -> list[str]:
        try:
            with self._database.reading() as session:
                usable = migrate.is_usable(session.connection())
        except (DatabaseUnavailable, Overloaded):
            return ["Postgres is unreachable; check DATABASE_URL and that Postgres runs."]
        return [] if usable else ["The database schema is older than this version; run `grouptune db upgrade`."]

    def _storage_problems(self) -> list[str]:
        try:
            self._store.check_writable()
        except StorageUnavailable as error:
            log.error("storage.unavailable", message=error.message)
            return [error.message_for_clients]
        return []

    def close(self) -> None:
        """Close the connection."""
        self._database.dispose()
