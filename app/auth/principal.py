"""The authenticated caller of a request."""

from dataclasses import dataclass

from app.core.accounts.audit import Actor
from app.core.accounts.limits import EffectiveLimits
from app.core.accounts.scopes import Scope


@dataclass(frozen=True)
class Principal:
    """The project and key on whose behalf a request acts. Every query is scoped by `project_id`."""

    project_id: str
    project_name: str
    key_id: str
    scopes: frozenset[Scope]
    limits: EffectiveLimits
    """The project's limits."""
    strict_enums: bool
    """Whether responses use only OpenAI's enum values when the request does not specify it."""
    actor: Actor
    """The same caller, for the audit log."""
