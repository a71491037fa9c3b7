"""`grouptune dashboard`, and the links that sign a browser in."""

from typing import Final

from app.cli.connection import StateDir, connect
from app.cli.ui.console import note, write_line
from app.client import Client

HOME: Final = "/ui/"


def dashboard(state_dir: StateDir = None) -> None:
    """Print a link to the dashboard that signs one browser in, once, within ten minutes."""
    with connect(state_dir) as client:
        write_line(link(client))
    note("Open it in a browser; it works once, for ten minutes.")


def link(client: Client, page: str = HOME) -> str:
    """Address of a page of the dashboard, with a fresh sign-in code."""
    code = client.post("/dashboard/links")["code"]
    return f"{client.base_url.removesuffix('/v1')}{page}#code={code}"
