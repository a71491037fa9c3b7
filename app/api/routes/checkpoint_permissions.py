"""`/v1/fine_tuning/checkpoints/{model}/permissions`: share a model or a checkpoint with other projects.

Model names contain ':' and '/', so the path parameter is `{checkpoint:path}`.
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from app.api.deps import Db, Models
from app.api.ids import MAX_ID, ModelName, PermissionId
from app.api.pagination import After, Limit, Page, page
from app.api.schemas.checkpoint_permissions import GrantPermissions, PermissionDeleted, PermissionObject
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts import audit
from app.core.accounts.audit import Action
from app.core.accounts.scopes import Scope
from app.core.models import permissions

router = APIRouter(prefix="/fine_tuning/checkpoints", tags=["Checkpoint permissions"])


@router.post("/{checkpoint:path}/permissions", dependencies=[needs(Scope.models_write)])
def grant_permissions(
    caller: Caller, checkpoint: ModelName, body: GrantPermissions, database: Db
) -> Page[PermissionObject]:
    """Let other projects use a model or checkpoint of this project: list it, download it and start jobs from it."""
    with database.transaction() as session:
        granted = permissions.grant(session, caller.project_id, checkpoint, body.project_ids)
        for permission in granted:
            after_change = audit.snapshot(permission, "project_id")
            audit.record(session, caller.actor, Action.permission_grant, checkpoint, after=after_change)
    return page([PermissionObject.of(permission) for permission in granted], has_more=False)


@router.get("/{checkpoint:path}/permissions", dependencies=[needs(Scope.models_read)])
def list_permissions(
    caller: Caller,
    checkpoint: ModelName,
    database: Db,
    after: After = None,
    limit: Limit = 10,
    order: Annotated[Literal["ascending", "descending"], Query(description="By time.")] = "descending",
    project_id: Annotated[str | None, Query(max_length=MAX_ID, description="Only permissions of this project.")] = None,
) -> Page[PermissionObject]:
    """List the permissions for a model or checkpoint of this project, newest first unless `order` is `ascending`."""
    with database.reading() as session:
        granted, more = permissions.list_permissions(
            session,
            caller.project_id,
            checkpoint,
            after=after,
            limit=limit,
            newest_first=order == "descending",
            of_project=project_id,
        )
    return page([PermissionObject.of(permission) for permission in granted], more)


@router.delete("/{checkpoint:path}/permissions/{permission_id}", dependencies=[needs(Scope.models_write)])
def revoke_permission(
    caller: Caller, checkpoint: ModelName, permission_id: PermissionId, database: Db, models: Models
) -> PermissionDeleted:
    """Revoke a permission. Attempts that already train continue; later attempts of the other project do not start."""
    with database.transaction() as session:
        permissions.revoke(session, caller.project_id, checkpoint, permission_id)
        before = {"permission": permission_id}
        audit.record(session, caller.actor, Action.permission_revoke, checkpoint, before=before)
    models.clear()
    return PermissionDeleted(id=permission_id)
