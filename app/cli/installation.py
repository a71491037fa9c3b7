"""Prepares the database of a local installation. Loads SQLAlchemy, so other commands import it only on use."""

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
    "The only API key is the installation's own, so it listens on this machine alone. Start it without --host, mint "
    "a key with `grouptune keys create NAME`, then start it again with --host."
)


def upgrade(database_url: str) -> None:
    """Brings the schema to the newest version; safe to repeat."""
    migrate.upgrade(database_url)


def is_current(database_url: str) -> bool:
    """Whether no migration is missing. Raises `DatabaseUnavailable`."""
    return migrate.current_is_head(database_url)


def breaches(database_url: str, config: Settings) -> list[invariants.Breach]:
    """What the history of all jobs breaks of the job machine's invariants, seen at one moment."""
    store = open_store(config.storage_dir, config.storage_url, config.storage_endpoint, config.storage_region)
    with _opened(database_url) as database, database.transaction() as session:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        return invariants.breaches(session, store.exists)


def bootstrap(database_url: str, existing: str | None) -> str:
    """The API key of project `default`, a new one unless `existing` is valid."""
    with _opened(database_url) as database, database.transaction() as session:
        return ensure_bootstrap(session, existing)


def bootstrap_for_network(database_url: str, existing: str | None) -> str:
    """The same for an API that other machines can reach. Raises `BadSetup` while nobody has made a key of their own.

    The installation's key lies in a file beside the data and can do everything: it is not for the network.
    """
    with _opened(database_url) as database, database.transaction() as session:
        if not any_minted(session):
            raise BadSetup(ONLY_BOOTSTRAP)
    return bootstrap(database_url, existing)


@contextmanager
def _opened(database_url: str) -> Iterator[Database]:
    database = Database(database_url, pool_size=1)
    try:
        yield database
    finally:
        database.dispose()
