"""Finds the server that a command talks to, and loads this machine's settings."""

import json
import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import typer

from app.cli.profile_store import find_profile
from app.cli.ui.exits import NoCredentials
from app.cli.ui.hints import suggest
from app.client import Client, ServerUnreachable

if TYPE_CHECKING:
    from app.core.settings import Settings

CONNECTION_NAME: Final = "connection.json"
_KEY: Final = re.compile(r"[!-~]+")
"""Printable ASCII without spaces: what an HTTP header can hold."""


class ServerConnection(NamedTuple):
    """Address of a server and an API key for it."""

    base_url: str
    """Ends in `/v1`."""
    api_key: str


def find(state_dir: Path | None) -> ServerConnection:
    """Find the server: `state_dir` if given, else GROUPTUNE_URL, a profile of `login`, or the default state directory.

    Raises `ServerUnreachable` when no server can be found, `NoCredentials` for GROUPTUNE_URL without a usable key.
    """
    url = url_from_environment()
    if state_dir is None and url:
        return ServerConnection(url, checked_key(os.environ.get("GROUPTUNE_API_KEY", "")))
    if state_dir is None and (stored := find_profile()) is not None:
        return ServerConnection(*stored)
    return read(state_dir or load_settings().state_dir)


def checked_key(key: str) -> str:
    """Return the key without spaces around it. Raises `NoCredentials` for text that cannot be a key."""
    key = key.strip()
    if not key:
        raise NoCredentials
    if not _KEY.fullmatch(key):
        raise NoCredentials(
            "The API key contains a space or another character that no key contains. Copy the key again."
        )
    return key


def ask_for_key() -> str:
    """Prompt for an API key, or read it from standard input without a terminal. Raises `NoCredentials`."""
    key = typer.prompt("API key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    if not key.strip():
        raise NoCredentials("No API key. Pipe it into the command, or run the command in a terminal to enter it.")
    return checked_key(key)


def url_from_environment() -> str | None:
    """GROUPTUNE_URL, completed to end in `/v1`; None if it is not set."""
    return complete_url(os.environ.get("GROUPTUNE_URL", "")) or None


def complete_url(url: str) -> str:
    """Return the URL with `/v1` at its end; empty text stays empty."""
    root = url.strip().rstrip("/")
    return root if not root or root.endswith("/v1") else f"{root}/v1"


def read(state_dir: Path) -> ServerConnection:
    """Read the connection of the server that runs from `state_dir`. Raises `ServerUnreachable` when none does."""
    path = state_dir / CONNECTION_NAME
    try:
        connection = json.loads(path.read_text(encoding="utf-8"))
        return ServerConnection(connection["base_url"], connection["api_key"])
    except FileNotFoundError:
        raise ServerUnreachable(
            f"No server is running from {state_dir}. Start one with `{suggest('up')}`, or set GROUPTUNE_URL and "
            "GROUPTUNE_API_KEY."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise ServerUnreachable(f"{path} is damaged. Restart the server with `{suggest('up')}`.") from None


def connect(state_dir: Path | None) -> Client:
    """Open a client for the server that `find` returns; its `with` block closes it."""
    return Client(*find(state_dir))


def load_settings(state_dir: Path | None = None) -> "Settings":
    """Load the settings of this machine, with another state directory if one is given.

    Imported on use: most commands only talk to a server, and importing pydantic would double their start-up time.
    """
    settings: Settings = import_module("app.core.settings").load()
    return settings if state_dir is None else settings.model_copy(update={"state_dir": state_dir.absolute()})
