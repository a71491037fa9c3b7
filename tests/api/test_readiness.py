"""`/readyz`: which schemas are ready, and what many requests cost."""

import asyncio
from pathlib import Path

import httpx
from sqlalchemy import event, text
from sqlalchemy.engine import Engine

from app.api.readiness import Readiness
from app.core import migrate
from app.core.db import Database
from app.core.settings import Settings
from app.core.storage.local import LocalBlobStore
from tests.api.server import Server, serve


def test_newer_schema_is_ready_and_older_is_not(server: Server, api_settings: Settings) -> None:
    revisions = {"9999": 200, "0001": 503, migrate.head(): 200}
    found = {}
    try:
        for revision in revisions:
            with server.database.transaction() as session:
                session.execute(text("UPDATE alembic_version SET version_num = :name"), {"name": revision})
            with serve(api_settings) as url:  # keeps no earlier result
                found[revision] = httpx.get(f"{url}/readyz").status_code
    finally:
        with server.database.transaction() as session:
            session.execute(text("UPDATE alembic_version SET version_num = :name"), {"name": migrate.head()})
    assert found == revisions


def test_many_readiness_requests_cost_one_check(database: Database, tmp_path: Path) -> None:
    statements: list[str] = []

    async def ask() -> list[list[str]]:
        readiness = Readiness(database.engine.url.render_as_string(hide_password=False), LocalBlobStore(tmp_path))
        try:
            return await asyncio.gather(*(readiness.problems() for _ in range(100)))
        finally:
            readiness.close()

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        assert asyncio.run(ask()) == [[]] * 100
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert sum("FROM alembic_version" in statement for statement in statements) == 1
