"""The repository on the Hugging Face hub that a base model's files come from, so that others can find the same base."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from app.core.models.registry import CATALOG

FILE: Final = "hub_source.json"
"""In a base model's directory, written by a pull: `{"hub_id": "owner/name", "revision": "...", "licence": "..."}`."""
_CACHE: Final = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/([0-9a-f]{40})$")
"""A snapshot in the hub client's own cache."""


@dataclass(frozen=True)
class HubSource:
    """A repository and a commit in it; the commit is None if unknown."""

    hub_id: str
    revision: str | None = None
    licence: str | None = None
    """Identifier of the licence as the hub states it, such as `apache-2.0`."""

    def write(self, directory: Path) -> None:
        """Store the source with the model's files."""
        (directory / FILE).write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")


def hub_source(directory: Path) -> HubSource | None:
    """Return where the model in `directory` comes from; None for a model that is known on this machine only.

    Looks at the model's own `hub_source.json`, at the hub client's cache, to which the directory may be a link, and at
    the catalog.
    """
    try:
        stored = json.loads((directory / FILE).read_text(encoding="utf-8"))
        return HubSource(str(stored["hub_id"]), stored.get("revision"), stored.get("licence"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    if cached := _CACHE.search(directory.resolve().as_posix()):
        owner, name, revision = cached.groups()
        return HubSource(f"{owner}/{name}", revision)
    entry = CATALOG.get(directory.name)
    return HubSource(entry.hub_id, licence=entry.licence) if entry else None
