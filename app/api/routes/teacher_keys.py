"""`/v1/teacher_keys`: the project's keys for the servers that its jobs use as teachers."""

from fastapi import APIRouter

from app.api.deps import Db, Outgoing, Secrets
from app.api.ids import TeacherKeyId
from app.api.pagination import Page, page
from app.api.schemas.teacher_keys import SetTeacherKey, TeacherKeyDeleted, TeacherKeyObject
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.egress.client import check_url
from app.core.teachers import keys

router = APIRouter(prefix="/teacher_keys", tags=["Teachers"])


@router.post("", dependencies=[needs(Scope.jobs_write)])
def set_teacher_key(
    caller: Caller, body: SetTeacherKey, database: Db, secrets: Secrets, outgoing: Outgoing
) -> TeacherKeyObject:
    """Store the key for a server, replacing the previous one."""
    check_url(body.base_url, outgoing.allowed, "base_url")
    with database.transaction() as session:
        key = keys.put(session, caller.actor, secrets, body.base_url, body.api_key.get_secret_value())
        return TeacherKeyObject.of(key)


@router.get("", dependencies=[needs(Scope.jobs_read)])
def list_teacher_keys(caller: Caller, database: Db) -> Page[TeacherKeyObject]:
    """List the keys, without their secrets."""
    with database.transaction() as session:
        return page([TeacherKeyObject.of(key) for key in keys.list_keys(session, caller.project_id)], False)


@router.delete("/{key_id}", dependencies=[needs(Scope.jobs_write)])
def delete_teacher_key(caller: Caller, key_id: TeacherKeyId, database: Db) -> TeacherKeyDeleted:
    """Delete a key. Running attempts keep the key that they started with."""
    with database.transaction() as session:
        keys.delete(session, caller.actor, key_id)
    return TeacherKeyDeleted(id=key_id)
