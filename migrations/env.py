"""Runs the migrations over one connection, under a lock that keeps two processes from migrating at once."""

import os

from alembic import context
from sqlalchemy import Connection, create_engine, pool, text

from app.core.tables import metadata

LOCK_KEY = 7_203_114_501
"""Any number that no other advisory lock of this database uses."""


def _url() -> str:
    url = context.config.attributes.get("database_url") or os.environ.get("DATABASE_URL")
    if not url:
        raise SystemExit("Set DATABASE_URL to the database that should be migrated.")
    return str(url)


def run() -> None:
    """Applies what alembic's command asks for, each run in one transaction: the caller's, if it gave a connection."""
    given = context.config.attributes.get("connection")
    if given is not None:
        _run_on(given)
        return
    engine = create_engine(_url(), poolclass=pool.NullPool)
    with engine.connect() as connection, connection.begin():
        _run_on(connection)
    engine.dispose()


def _run_on(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
    context.configure(connection=connection, target_metadata=metadata, compare_server_default=True)
    with context.begin_transaction():
        context.run_migrations()


run()
