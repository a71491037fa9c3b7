"""Scopes: the permissions of API keys. A route requires one; a key has several, and `files:*` includes all of files."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final


class Scope(StrEnum):
    """A scope that a route can require."""

    files_read = "files:read"
    files_write = "files:write"
    jobs_read = "jobs:read"
    jobs_write = "jobs:write"
    models_read = "models:read"
    models_write = "models:write"
    inference = "inference"
    """Answers from base models and from the project's own models."""
    webhooks_read = "webhooks:read"
    webhooks_write = "webhooks:write"
    admin = "admin"
    """API keys, projects and the audit log of the whole installation. Includes no other scope."""


WILDCARDS: Final = {
    f"{noun}:*": frozenset(scope for scope in Scope if scope.startswith(f"{noun}:"))
    for noun in ("files", "jobs", "models", "webhooks")
}
"""Grants in addition to single scopes, and the scopes they include."""
GRANTABLE: Final = (*WILDCARDS, *map(str, Scope))
DEFAULT: Final = (*WILDCARDS, str(Scope.inference))
"""Every scope within the key's own project."""
ALL: Final = (*DEFAULT, str(Scope.admin))


def canonical(granted: Iterable[str]) -> tuple[str, ...]:
    """Return the grants in a fixed order, without duplicates. Raises `ValueError` for an unknown grant."""
    requested = set(granted)
    if unknown := sorted(requested - set(GRANTABLE)):
        raise ValueError(f"unknown scope '{unknown[0]}'; use one or more of {', '.join(GRANTABLE)}")
    return tuple(grant for grant in GRANTABLE if grant in requested)


def expand(granted: Iterable[str]) -> frozenset[Scope]:
    """Return the scopes that the grants include. A grant that this version does not define includes none."""
    scopes: set[Scope] = set()
    for grant in granted:
        scopes |= WILDCARDS.get(grant) or {scope for scope in Scope if scope == grant}
    return frozenset(scopes)
