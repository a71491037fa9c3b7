"""Migrates a database to the newest schema. The scripts are in the package `migrations`, which a wheel includes."""

from functools import cache
from importlib import resources
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from app.core.errors import BadSetup


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


@cache
def head() -> str:
    """Return the newest revision."""
    return str(ScriptDirectory.from_config(config("")).get_current_head())


@cache
def _known() -> frozenset[str]:
    """Return the revisions of this version."""
    return frozenset(script.revision for script in ScriptDirectory.from_config(config("")).walk_revisions())


def is_known(name: str) -> bool:
    """Return whether this version can migrate from the revision `name`."""
    return name in _known()


def revision(connection: Connection) -> str | None:
    """Return the revision of the database; None without a schema."""
    return MigrationContext.configure(connection).get_current_revision()


def is_head(connection: Connection) -> bool:
    """Return whether the schema is exactly this version's."""
    return revision(connection) == head()


def is_usable(connection: Connection) -> bool:
    """Return whether the schema is this version's or a newer one.

    Migrations only add within a minor version, so this version works with a revision that it does not know: the API
    stays ready while a newer version is rolled out.
    """
    current = revision(connection)
    return current is not None and (current == head() or not is_known(current))
