"""Prepares the database of a local installation. Loads SQLAlchemy, so other commands import it only on use."""

from app.core import migrate
from app.core.accounts.api_keys import ensure_bootstrap
from app.core.db import Database


def upgrade(database_url: str) -> None:
    """Brings the schema to the newest version; safe to repeat."""
    migrate.upgrade(database_url)


def bootstrap(database_url: str, existing: str | None) -> str:
    """The API key of project `default`, a new one unless `existing` is valid."""
    database = Database(database_url, pool_size=1)
    try:
        with database.transaction() as session:
            return ensure_bootstrap(session, existing)
    finally:
        database.dispose()
