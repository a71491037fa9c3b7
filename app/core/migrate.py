"""Brings a database to the newest schema. The scripts are the package `migrations`, also in a wheel."""

from importlib import resources
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine, pool
from sqlalchemy.exc import SQLAlchemyError

from app.core.errors import BadSetup, DatabaseUnavailable

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


def upgrade_on(connection: Connection, target: str) -> None:
    """The same up to the revision `target`, in the transaction of `connection`."""
    command.upgrade(_config_on(connection), target)


def clear(connection: Connection) -> None:
    """Drops all tables and what is in them, in the transaction of `connection`.

    Raises `BadSetup` for a schema that this version does not know.
    """
    try:
        command.downgrade(_config_on(connection), "base")
    except CommandError as error:
        raise BadSetup(f"The database has a schema that this version of Grouptune does not know ({error}).") from error


def _config_on(connection: Connection) -> Config:
    settings = config("")
    settings.attributes["connection"] = connection
    return settings


def head() -> str:
    """The newest revision."""
    return str(ScriptDirectory.from_config(config("")).get_current_head())


def is_known(name: str) -> bool:
    """Whether this version can migrate from the revision `name`."""
    return any(script.revision == name for script in ScriptDirectory.from_config(config("")).walk_revisions())


def revision(connection: Connection) -> str | None:
    """The one that the database has; None without a schema."""
    return MigrationContext.configure(connection).get_current_revision()


def is_head(connection: Connection) -> bool:
    """Whether nothing is missing."""
    return revision(connection) == head()


def current_is_head(database_url: str) -> bool:
    """Whether nothing is missing. Raises `DatabaseUnavailable` when the database cannot be asked."""
    timeout = {"connect_timeout": CONNECT_TIMEOUT_SECONDS}
    engine = create_engine(database_url, poolclass=pool.NullPool, connect_args=timeout)
    try:
        with engine.connect() as connection:
            return is_head(connection)
    except SQLAlchemyError as error:
        raise DatabaseUnavailable from error
    finally:
        engine.dispose()
