"""Bodies of `/v1/audit_log`."""

from typing import Any, Literal

from pydantic import Field

from app.api.pagination import Item
from app.core.accounts.tables import AuditEntry
from app.core.spec.described import Described


class AuditActor(Described):
    """The key, project and address that made a change."""

    key_id: str | None = Field(description="Null if the operator made the change on the command line.")
    project_id: str
    """The project of the key."""
    ip: str | None
    """The client's address; null if the change was made on the command line."""
    request_id: str | None = Field(description="The `x-request-id` of the response.")


class AuditObject(Item):
    """One change."""

    object: Literal["audit_log.entry"] = "audit_log.entry"
    created_at: int = Field(description="Unix seconds.")
    action: str
    """What was done, such as `api_key.create`."""
    object_id: str
    """Id of the changed object."""
    project_id: str = Field(description="The project that the object belongs to.")
    actor: AuditActor
    """Who made the change."""
    before: dict[str, Any] | None
    """The changed fields before the change; null for a new object."""
    after: dict[str, Any] | None
    """The changed fields after the change; null for a deleted object."""

    @classmethod
    def of(cls, entry: AuditEntry) -> "AuditObject":
        """Return the wire form of a row."""
        return cls(
            id=entry.id,
            created_at=int(entry.created_at.timestamp()),
            action=entry.action,
            object_id=entry.object_id,
            project_id=entry.project_id,
            actor=AuditActor(
                key_id=entry.actor_key_id,
                project_id=entry.actor_project_id,
                ip=entry.ip,
                request_id=entry.request_id,
            ),
            before=entry.before,
            after=entry.after,
        )
