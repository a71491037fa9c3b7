"""A key is looked up once for all who send it at the same time, and a change makes everybody ask again."""

import asyncio
import threading

import pytest

from app.auth.key_cache import Identities
from app.core.accounts import api_key_admin, api_keys
from app.core.accounts.api_keys import Identity
from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.errors import AuthenticationFailed
from tests.setup_jobs import make_project


class LookUp:
    """Asks the database, when it may, and counts how often."""

    def __init__(self, database: Database, key: str) -> None:
        self.database, self.key, self.asked = database, key, 0
        self.begun, self.may = threading.Event(), threading.Event()

    def __call__(self) -> Identity:
        self.asked += 1
        with self.database.reading() as session:
            found = api_keys.authenticate(session, self.key)
        self.begun.set()
        self.may.wait()
        return found


def test_a_lookup_from_before_a_change_serves_nobody_who_asks_after_it(database: Database) -> None:
    with database.transaction() as session:
        made = api_keys.create_key(session, make_project(session), "test", granted=["jobs:read"])
    find = LookUp(database, made.text)

    async def ask() -> None:
        known = Identities()
        early = [asyncio.create_task(known.of(made.text, find)) for _ in range(20)]
        await asyncio.to_thread(find.begun.wait)
        assert find.asked == 1
        with database.transaction() as session:
            api_key_admin.revoke(session, Actor(made.key.project_id), made.key.id)
        known.forget()
        find.may.set()
        with pytest.raises(AuthenticationFailed):
            await known.of(made.text, find)
        assert {identity.key.id for identity in await asyncio.gather(*early)} == {made.key.id}
        with pytest.raises(AuthenticationFailed):  # what the early ones were told is not remembered
            await known.of(made.text, find)

    asyncio.run(ask())


def test_a_good_key_is_remembered(database: Database) -> None:
    with database.transaction() as session:
        made = api_keys.create_key(session, make_project(session), "test", granted=["jobs:read"])
    find = LookUp(database, made.text)
    find.may.set()

    async def ask() -> None:
        known = Identities()
        for _ in range(3):
            assert (await known.of(made.text, find)).key.id == made.key.id

    asyncio.run(ask())
    assert find.asked < 3
