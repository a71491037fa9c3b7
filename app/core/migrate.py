"""Migrates a database to the newest schema. The scripts are in the package `migrations`, which a wheel includes."""

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
    """Return Alembic's configuration for a database, without an ini file."""
    settings = Config()
    settings.set_main_option("script_location", str(Path(str(resources.files("migrations")))).replace("%", "%%"))
    settings.attributes["database_url"] = database_url
    return settings


def upgrade(database_url: str) -> None:
    """Run all missing migrations. Concurrent calls wait for each other; repeated calls are safe."""
    command.upgrade(config(database_url), "head")


def upgrade_on(connection: Connection, target: str) -> None:
    """Migrate up to the revision `target`, in the transaction of `connection`."""
    command.upgrade(_config_on(connection), target)


def clear(connection: Connection) -> None:
    """Drop all tables with their rows, in the transaction of `connection`.

    Raises `BadSetup` for a schema of another version.
    """
    try:
        command.downgrade(_config_on(connection), "base")
    except CommandError as error:
        raise BadSetup(f"The database schema is not one of this version of Grouptune ({error}).") from error


def _config_on(connection: Connection) -> Config:
    settings = config("")
    settings.attributes["connection"] = connection
    return settings


def head() -> str:
    """Return the newest revision."""
    return str(ScriptDirectory.from_config(config("")).get_current_head())


def is_known(name: str) -> bool:
    """Return whether this version can migrate from the revision `name`."""
    return any(script.revision == name for script in ScriptDirectory.from_config(config("")).walk_revisions())


def revision(connection: Connection) -> str | None:
    """Return the revision of the database; None without a schema."""
    return MigrationContext.configure(connection).get_current_revision()


def is_head(connection: Connection) -> bool:
    """Return whether the schema is current."""
    return revision(connection) == head()


def current_is_head(database_url: str) -> bool:
    """Return whether the schema is current. Raises `DatabaseUnavailable` when the database cannot be reached."""
    timeout = {"connect_timeout": CONNECT_TIMEOUT_SECONDS}
    engine = create_engine(database_url, poolclass=pool.NullPool, connect_args=timeout)
    try:
        with engine.connect() as connection:
            return is_head(connection)
    except SQLAlchemyError as error:
        raise DatabaseUnavailable from error
    finally:
        engine.dispose()
