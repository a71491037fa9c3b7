"""`grouptune db`: the schema of an installation with a Postgres of its own."""

from importlib import import_module

import typer

from app.cli.console import note, write_line
from app.core import settings
from app.core.errors import BadSetup

app = typer.Typer(help="Look after the database.", no_args_is_help=True)


@app.callback()
def _db() -> None:
    """Look after the database."""


@app.command()
def upgrade() -> None:
    """Bring the schema of DATABASE_URL to the newest version. `grouptune up` does so by itself."""
    import_module("app.cli.installation").upgrade(_url("The embedded Postgres is upgraded by `grouptune up`."))
    note("The schema is current.")


@app.command("admin-key")
def admin_key() -> None:
    """Mint an API key with every scope in DATABASE_URL and print it: the first one, or when all others are lost."""
    url = _url("`grouptune up` keeps a key of its own in the state directory.")
    text = import_module("app.cli.installation").bootstrap(url, None)
    note("A key of project default with every scope. It is shown once; mint others with it: grouptune keys create.")
    write_line(text)


def _url(otherwise: str) -> str:
    """DATABASE_URL. Raises `BadSetup` without one, which says what holds for the embedded Postgres."""
    url = settings.load().database_url
    if url is None:
        raise BadSetup(f"Set DATABASE_URL. {otherwise}")
    return url
