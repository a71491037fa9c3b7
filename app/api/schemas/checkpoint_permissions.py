"""Bodies of `/v1/fine_tuning/checkpoints/{model}/permissions`."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from app.api.ids import MAX_ID
from app.api.pagination import Item
from app.core.models.tables import CheckpointPermission
from app.core.spec.described import Described


class GrantPermissions(Described):
    """The projects that may use a model."""

    model_config = ConfigDict(extra="forbid")

    project_ids: Annotated[list[Annotated[str, Field(max_length=MAX_ID)]], Field(min_length=1, max_length=100)]
    """The projects that get the permission."""


class PermissionObject(Item):
    """The permission of one project to use one model of another."""

    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    created_at: int = Field(description="Unix seconds.")
    project_id: str = Field(description="The project that may use the model.")

    @classmethod
    def of(cls, permission: CheckpointPermission) -> "PermissionObject":
        """Return the wire form of a row."""
        created_at = int(permission.created_at.timestamp())
        return cls(id=permission.id, created_at=created_at, project_id=permission.project_id)


class PermissionDeleted(Described):
    """The permission is revoked."""

    id: str
    """The permission."""
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    deleted: Literal[True] = True
