"""Virtual time in Postgres: the scheduler's statements run unchanged, and their `now()` is the simulation's."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import create_engine, func, select, text
from sqlalchemy.orm import Session

from app.core import migrate
from app.core.db import Database
from app.local.postgres import EmbeddedPostgres

START: Final = datetime(2026, 1, 5, tzinfo=UTC)
"""A Monday, early in a month: GPU hours are limited by calendar month."""

# Postgres searches pg_catalog first unless the path names it later. The migrations run with this path too, so that
# columns that default to now() are in virtual time. Commits do not wait for the disk, because the data need not survive
# a power cut.
_SETTINGS: Final = (
    "CREATE SCHEMA virtual",
    "CREATE FUNCTION virtual.now() RETURNS timestamptz STABLE LANGUAGE sql "
    "AS $$ SELECT current_setting('virtual.now')::timestamptz $$",
    "ALTER ROLE CURRENT_USER SET search_path = virtual, pg_catalog, public",
    f"ALTER ROLE CURRENT_USER SET virtual.now = '{START.isoformat()}'",
    "ALTER ROLE CURRENT_USER SET synchronous_commit = off",
)


@contextmanager
def virtual_database(directory: Path) -> Iterator[Database]:
    """Run a Postgres in virtual time, with the current schema and no rows."""
    with EmbeddedPostgres(directory) as postgres:
        engine = create_engine(postgres.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for setting in _SETTINGS:
                connection.execute(text(setting))
        engine.dispose()
        migrate.upgrade(postgres.url)
        database = Database(postgres.url)
        yield database
        database.dispose()


@contextmanager
def moment(database: Database, seconds: float) -> Iterator[Session]:
    """Open a transaction at a moment of the simulation, in seconds since its start."""
    now = (START + timedelta(seconds=seconds)).isoformat()
    with database.transaction() as session:
        session.execute(select(func.set_config("virtual.now", now, True)))
        yield session
