"""`grouptune dashboard`: links that sign a browser in."""

from typing import Final

from app.cli.connection import connect
from app.cli.ui.console import note, write_line
from app.cli.ui.options import StateDir
from app.client import Client

HOME: Final = "/ui/"


def dashboard(state_dir: StateDir = None) -> None:
    """Print a dashboard link that signs in one browser. It works once, within ten minutes."""
    with connect(state_dir) as client:
        write_line(link(client))
    note("Open the link in a browser. It works once, within ten minutes.")


def link(client: Client, page: str = HOME) -> str:
    """Return the URL of a dashboard page with a new sign-in code."""
    code = client.post("/dashboard/links")["code"]
    return f"{client.base_url.removesuffix('/v1')}{page}#code={code}"
