"""A worker waits for the schema that it needs."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import structlog
from sqlalchemy import text

from app.core import migrate
from app.core.db import Database
from worker.schema import wait_for_schema


@contextmanager
def warnings() -> Iterator[Event]:
    """Yield an event that the first warning of the block sets."""
    warned, before = Event(), structlog.get_config()["processors"]

    def note(_logger: Any, name: str, _values: Any) -> str:
        if name == "warning":
            warned.set()
        raise structlog.DropEvent

    structlog.configure(processors=[note])
    try:
        yield warned
    finally:
        structlog.configure(processors=before)


def at_revision(database: Database, revision: str) -> None:
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :name"), {"name": revision})


def test_worker_waits_for_the_migrations(database: Database) -> None:
    waiting = Thread(target=wait_for_schema, args=(database,))
    at_revision(database, "0001")
    try:
        with warnings() as warned:
            waiting.start()
            assert warned.wait(60)
            assert waiting.is_alive()
    finally:
        at_revision(database, migrate.head())
    waiting.join(60)
    assert not waiting.is_alive()


def test_newer_schema_is_used_at_once(database: Database) -> None:
    at_revision(database, "9999")
    try:
        wait_for_schema(database)
    finally:
        at_revision(database, migrate.head())
