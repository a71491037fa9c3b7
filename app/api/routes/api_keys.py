"""`/v1/api_keys`: administrators create, list, rotate and revoke the keys of all projects."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Body, Query

from app.api.deps import CachedKeys, Db
from app.api.ids import MAX_ID, KeyId
from app.api.pagination import After, Limit, Page, page
from app.api.schemas.api_keys import CreateKey, KeyObject, KeyRevoked, NewKeyObject, RotateKey
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts import api_key_admin
from app.core.accounts.scopes import Scope

router = APIRouter(prefix="/api_keys", tags=["API keys"], dependencies=[needs(Scope.admin)])


@router.post("")
def create_key(caller: Caller, body: CreateKey, database: Db) -> NewKeyObject:
    """Create a key. Only this response contains the key's text."""
    with database.transaction() as session:
        new_key = api_key_admin.mint(
            session,
            caller.actor,
            project_id=body.project_id or caller.project_id,
            name=body.name,
            granted=body.scopes,
            requests_per_minute=body.requests_per_minute,
            expires_in=None if body.expires_in_seconds is None else timedelta(seconds=body.expires_in_seconds),
        )
        return NewKeyObject.made(new_key)


@router.get("")
def list_keys(
    database: Db,
    after: After = None,
    limit: Limit = 20,
    project_id: Annotated[str | None, Query(max_length=MAX_ID, description="Keys of all projects if absent.")] = None,
) -> Page[KeyObject]:
    """List keys, newest first, including expired and revoked ones."""
    with database.reading() as session:
        keys, more = api_key_admin.list_keys(session, after=after, limit=limit, project_id=project_id)
    return page([KeyObject.of(key) for key in keys], more)


@router.get("/{key_id}")
def retrieve_key(key_id: KeyId, database: Db) -> KeyObject:
    """Retrieve a key, without its secret."""
    with database.reading() as session:
        return KeyObject.of(api_key_admin.get_key(session, key_id))


@router.delete("/{key_id}")
def revoke_key(caller: Caller, key_id: KeyId, database: Db, cached_keys: CachedKeys) -> KeyRevoked:
    """Revoke a key immediately and permanently."""
    with database.transaction() as session:
        api_key_admin.revoke(session, caller.actor, key_id)
    cached_keys.clear()
    return KeyRevoked(id=key_id)


@router.post("/{key_id}/rotate")
def rotate_key(
    caller: Caller,
    key_id: KeyId,
    database: Db,
    cached_keys: CachedKeys,
    body: Annotated[RotateKey | None, Body()] = None,
) -> NewKeyObject:
    """Replace a key with a new one that has the same settings.

    The old key stays valid for a grace period, by default one day.
    """
    grace = timedelta(seconds=(body or RotateKey()).grace_seconds)
    with database.transaction() as session:
        answer = NewKeyObject.made(api_key_admin.rotate(session, caller.actor, key_id, grace))
    cached_keys.clear()
    return answer
