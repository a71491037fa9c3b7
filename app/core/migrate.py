"""Brings a database to the newest schema. The scripts are the package `migrations`, also in a wheel."""

from importlib import resources
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, pool
from sqlalchemy.exc import SQLAlchemyError

from app.core.errors import DatabaseUnavailable

CONNECT_TIMEOUT_SECONDS = 5


def config(database_url: str) -> Config:
    """Alembic's configuration for a database, built without an ini file."""
    settings = Config()
    settings.set_main_option("script_location", str(Path(str(resources.files("migrations")))).replace("%", "%%"))
    settings.attributes["database_url"] = database_url
    return settings


def upgrade(database_url: str) -> None:
    """Runs whatever migrations are missing. Concurrent calls wait for each other; safe to repeat."""
    command.upgrade(config(database_url), "head")


def current_is_head(database_url: str) -> bool:
    """Whether nothing is missing. Raises `DatabaseUnavailable` when the database cannot be asked."""
    head = ScriptDirectory.from_config(config(database_url)).get_current_head()
    timeout = {"connect_timeout": CONNECT_TIMEOUT_SECONDS}
    engine = create_engine(database_url, poolclass=pool.NullPool, connect_args=timeout)
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision() == head
    except SQLAlchemyError as error:
        raise DatabaseUnavailable from error
    finally:
        engine.dispose()
