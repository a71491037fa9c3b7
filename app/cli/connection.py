"""Finds the server that a command speaks to."""

import json
import os
import re
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import typer

from app.cli import configuration
from app.cli.ui.exits import NoCredentials
from app.client import Client, ServerUnreachable

CONNECTION_NAME: Final = "connection.json"
_KEY: Final = re.compile(r"[!-~]+")

StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        metavar="DIR",
        help="Use the server that runs from this directory.",
        show_default=False,
        file_okay=False,
    ),
]


class Connection(NamedTuple):
    """Where a server is and the key to it."""

    base_url: str
    """Ends in `/v1`."""
    api_key: str


def find(state_dir: Path | None) -> Connection:
    """The state directory that was asked for, else GROUPTUNE_URL, else the default state directory.

    Raises `ServerUnreachable` when none of them names a server, `NoCredentials` for a URL without a key.
    """
    url = url_from_environment()
    if state_dir is None and url:
        key = os.environ.get("GROUPTUNE_API_KEY", "").strip()
        if not key:
            raise NoCredentials
        if not _KEY.fullmatch(key):  # a header could not hold it
            raise NoCredentials("GROUPTUNE_API_KEY has a space or a character that no key has: copy the key again.")
        return Connection(url, key)
    return read(state_dir or configuration.load().state_dir)


def url_from_environment() -> str | None:
    """GROUPTUNE_URL with `/v1` at its end; None if it is not set."""
    root = os.environ.get("GROUPTUNE_URL", "").strip().rstrip("/")
    return None if not root else root if root.endswith("/v1") else f"{root}/v1"


def read(state_dir: Path) -> Connection:
    """The server that runs from `state_dir`. Raises `ServerUnreachable` when there is none."""
    path = state_dir / CONNECTION_NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Connection(found["base_url"], found["api_key"])
    except FileNotFoundError:
        raise ServerUnreachable(
            f"No server runs from {state_dir}. Start one with `grouptune up`, or set GROUPTUNE_URL and "
            "GROUPTUNE_API_KEY."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise ServerUnreachable(f"{path} is damaged; start the server again with `grouptune up`.") from None


def connect(state_dir: Path | None) -> Client:
    """A client of the server that `find` finds; closed by its `with` block."""
    return Client(*find(state_dir))
