"""The caller of a request, once known."""

from dataclasses import dataclass

from app.core.accounts.audit import Actor
from app.core.accounts.limits import Limits
from app.core.accounts.scopes import Scope


@dataclass(frozen=True)
class Principal:
    """On whose behalf a request acts; every query is scoped by `project_id`."""

    project_id: str
    project_name: str
    key_id: str
    scopes: frozenset[Scope]
    limits: Limits
    """What the project may use."""
    strict_enums: bool
    """Whether answers keep to OpenAI's enums when the request does not say."""
    actor: Actor
    """The same caller, for the audit log."""
