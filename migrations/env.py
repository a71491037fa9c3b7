"""Runs the migrations on one connection, holding a lock so that two processes never migrate at once."""

import os

from alembic import context
from sqlalchemy import Connection, create_engine, pool, text

from app.core.tables import metadata

LOCK_KEY = 7_203_114_501
"""An arbitrary number that no other advisory lock of this database uses."""


def _url() -> str:
    url = context.config.attributes.get("database_url") or os.environ.get("DATABASE_URL")
    if not url:
        raise SystemExit("DATABASE_URL is not set. Set it to the database to migrate.")
    return str(url)


def run() -> None:
    """Run alembic's command in one transaction: the caller's, if the caller passed a connection."""
    connection = context.config.attributes.get("connection")
    if connection is not None:
        _run_on(connection)
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
