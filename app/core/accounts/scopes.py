"""What an API key may do. A route needs one scope; a key is granted some, `files:*` standing for all of files."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final


class Scope(StrEnum):
    """What a route can need."""

    files_read = "files:read"
    files_write = "files:write"
    jobs_read = "jobs:read"
    jobs_write = "jobs:write"
    models_read = "models:read"
    models_write = "models:write"
    inference = "inference"
    webhooks_read = "webhooks:read"
    webhooks_write = "webhooks:write"
    admin = "admin"
    """API keys, projects and the audit log of the whole installation. Contains no other scope."""


WILDCARDS: Final = {
    f"{noun}:*": frozenset(scope for scope in Scope if scope.startswith(f"{noun}:"))
    for noun in ("files", "jobs", "models", "webhooks")
}
"""What a key can be granted besides single scopes, and what that contains."""
GRANTABLE: Final = (*WILDCARDS, *map(str, Scope))
DEFAULT: Final = (*WILDCARDS, str(Scope.inference))
"""Everything inside the key's own project."""
ALL: Final = (*DEFAULT, str(Scope.admin))


def canonical(granted: Iterable[str]) -> tuple[str, ...]:
    """The grants in a stable order, each once. Raises `ValueError` for one that does not exist."""
    wanted = set(granted)
    if unknown := sorted(wanted - set(GRANTABLE)):
        raise ValueError(f"there is no scope '{unknown[0]}'; use some of {', '.join(GRANTABLE)}")
    return tuple(grant for grant in GRANTABLE if grant in wanted)


def expand(granted: Iterable[str]) -> frozenset[Scope]:
    """The single scopes that grants contain. A grant that this version does not know contains none."""
    found: set[Scope] = set()
    for grant in granted:
        found |= WILDCARDS.get(grant) or {scope for scope in Scope if scope == grant}
    return frozenset(found)
