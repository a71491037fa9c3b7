"""The configuration of this machine, read when a command wants it: most only speak to a server."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.core.settings import Settings


def load() -> "Settings":
    """As `app.core.settings.load`, whose pydantic takes as long to import as all the rest of a command."""
    settings: Settings = import_module("app.core.settings").load()
    return settings
