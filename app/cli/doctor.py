"""`grouptune doctor`: checks the database of an installation, and says how to mend what it finds."""

from importlib import import_module
from typing import Annotated

import typer

from app.cli.console import fail, note
from app.cli.exits import ExitCode
from app.core import settings
from app.core.errors import BadSetup


def doctor(
    history: Annotated[bool, typer.Option("--history", help="Also check all that ever happened to every job.")] = False,
) -> None:
    """Check the database of DATABASE_URL; the exit code is 1 when something is wrong."""
    config = settings.load()
    if config.database_url is None:
        raise BadSetup("Set DATABASE_URL to the database that should be checked.")
    installation = import_module("app.cli.installation")
    if not installation.is_current(config.database_url):
        raise BadSetup("The database schema is not current; run `grouptune db upgrade`.")
    found = installation.breaches(config.database_url, config) if history else []
    for breach in found:
        fail(f"{breach.subject}: it does not hold that {breach.invariant}")
    if found:
        raise typer.Exit(ExitCode.error)
    note("All is well.")
