"""Concurrent requests share a lookup, and a change invalidates it."""

import asyncio
import threading

import pytest

from app.core.accounts import api_key_admin, api_keys
from app.core.accounts.api_keys import Identity
from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.errors import AuthenticationFailed
from app.core.lookup_cache import LookupCache
from tests.setup_jobs import make_project


class Lookup:
    """Authenticates a key; waits before it returns, and counts its calls."""

    def __init__(self, database: Database, key: str) -> None:
        self.database, self.key, self.calls = database, key, 0
        self.read, self.released = threading.Event(), threading.Event()

    def __call__(self) -> Identity:
        self.calls += 1
        with self.database.reading() as session:
            identity = api_keys.authenticate(session, self.key)
        self.read.set()
        self.released.wait()
        return identity


def test_lookup_before_a_change_is_not_cached(database: Database) -> None:
    with database.transaction() as session:
        made = api_keys.create_key(session, make_project(session), "test", granted=["jobs:read"])
    lookup = Lookup(database, made.text)

    async def run() -> None:
        cache = LookupCache[str, Identity](asyncio.to_thread)
        pending = [asyncio.create_task(cache.get(made.text, lookup)) for _ in range(20)]
        await asyncio.to_thread(lookup.read.wait)
        assert lookup.calls == 1
        with database.transaction() as session:
            api_key_admin.revoke(session, Actor(made.key.project_id), made.key.id)
        cache.clear()
        lookup.released.set()
        with pytest.raises(AuthenticationFailed):
            await cache.get(made.text, lookup)
        assert {identity.key.id for identity in await asyncio.gather(*pending)} == {made.key.id}
        with pytest.raises(AuthenticationFailed):  # the result of the early lookup is not in the cache
            await cache.get(made.text, lookup)

    asyncio.run(run())


def test_valid_key_is_cached(database: Database) -> None:
    with database.transaction() as session:
        made = api_keys.create_key(session, make_project(session), "test", granted=["jobs:read"])
    lookup = Lookup(database, made.text)
    lookup.released.set()

    async def run() -> None:
        cache = LookupCache[str, Identity](asyncio.to_thread)
        for _ in range(3):
            assert (await cache.get(made.text, lookup)).key.id == made.key.id

    asyncio.run(run())
    assert lookup.calls < 3
