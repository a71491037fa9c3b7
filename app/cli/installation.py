"""Prepares and checks the database of an installation. Imports SQLAlchemy, so commands import it on use."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from app.core import migrate
from app.core.accounts.api_key_admin import any_minted
from app.core.accounts.api_keys import ensure_bootstrap
from app.core.db import Database
from app.core.errors import BadSetup
from app.core.jobs import invariants
from app.core.settings import Settings
from app.core.storage.opening import open_store

ONLY_BOOTSTRAP: Final = (
    "The installation's own API key is the only one, so the server may listen on this machine only. Start it without "
    "--host, create a key with `grouptune keys create NAME`, then restart it with --host."
)


def upgrade(database_url: str) -> None:
    """Upgrade the schema to the newest version; safe to repeat."""
    migrate.upgrade(database_url)


def breaches(database_url: str, config: Settings) -> list[invariants.Breach]:
    """Return the invariants that the history of any job violates, read from one snapshot of the database."""
    store = open_store(config.storage_dir, config.storage_url, config.storage_endpoint, config.storage_region)
    with _open(database_url) as database, database.transaction() as session:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        return invariants.breaches(session, store.exists)


def bootstrap(database_url: str, existing: str | None) -> str:
    """Return an API key of project `default`: `existing` if it is valid, else a new one."""
    with _open(database_url) as database, database.transaction() as session:
        return ensure_bootstrap(session, existing)


def bootstrap_for_network(database_url: str, existing: str | None) -> str:
    """Like `bootstrap`, for an API that other machines can reach. Raises `BadSetup` until an operator creates a key.

    The installation's own key has every scope and is stored in a file next to the data, so it must not be needed
    over the network.
    """
    with _open(database_url) as database, database.transaction() as session:
        if not any_minted(session):
            raise BadSetup(ONLY_BOOTSTRAP)
    return bootstrap(database_url, existing)


@contextmanager
def _open(database_url: str) -> Iterator[Database]:
    database = Database(database_url, pool_size=1)
    try:
        yield database
    finally:
        database.dispose()
