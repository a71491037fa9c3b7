"""`/v1/audit_log`: who changed what, in all projects."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.api.deps import Db
from app.api.ids import MAX_ID, MAX_MODEL_NAME
from app.api.pagination import After, Limit, Page, page
from app.api.schemas.audit_log import AuditObject
from app.auth.scopes import needs
from app.core.accounts import audit
from app.core.accounts.audit import Action
from app.core.accounts.scopes import Scope

router = APIRouter(prefix="/audit_log", tags=["Audit log"])


@router.get("", dependencies=[needs(Scope.admin)])
def list_audit_log(
    database: Db,
    after: After = None,
    limit: Limit = 20,
    project_id: Annotated[
        str | None, Query(max_length=MAX_ID, description="Only changes of this project's objects.")
    ] = None,
    action: Annotated[Action | None, Query(description="Only this kind of change, such as `job.cancel`.")] = None,
    object_id: Annotated[
        str | None, Query(max_length=MAX_MODEL_NAME, description="Only changes of this object.")
    ] = None,
    key_id: Annotated[str | None, Query(max_length=MAX_ID, description="Only changes made with this key.")] = None,
) -> Page[AuditObject]:
    """List changes, newest first. Filters are combined: an entry must match all of them."""
    with database.reading() as session:
        entries, more = audit.list_entries(
            session,
            after=after,
            limit=limit,
            project_id=project_id,
            action=action,
            object_id=object_id,
            actor_key_id=key_id,
        )
    return page([AuditObject.of(entry) for entry in entries], more)
