"""`grouptune db`: the schema of an installation with a Postgres of its own."""

from importlib import import_module

import typer

from app.cli.console import note
from app.core import settings
from app.core.errors import BadSetup

app = typer.Typer(help="Look after the database.", no_args_is_help=True)


@app.callback()
def _db() -> None:
    """Look after the database."""


@app.command()
def upgrade() -> None:
    """Bring the schema of DATABASE_URL to the newest version. `grouptune up` does so by itself."""
    url = settings.load().database_url
    if url is None:
        raise BadSetup("Set DATABASE_URL. The embedded Postgres is upgraded by `grouptune up`.")
    import_module("app.cli.installation").upgrade(url)
    note("The schema is current.")
