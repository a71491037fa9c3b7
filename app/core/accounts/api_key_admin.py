"""Manages API keys of all projects, for administrators: create, list, revoke, rotate."""

from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy import ColumnElement, func, select, tuple_
from sqlalchemy.orm import Session

from app.core.accounts import audit
from app.core.accounts.api_keys import AUDITED, NewKey, create_key
from app.core.accounts.audit import Action, Actor
from app.core.accounts.scopes import Scope
from app.core.accounts.tables import ApiKey, Project
from app.core.errors import InvalidRequest, NotFound


def mint(
    session: Session,
    actor: Actor,
    *,
    project_id: str,
    name: str,
    granted: Iterable[str],
    requests_per_minute: int | None,
    expires_in: timedelta | None,
) -> NewKey:
    """Create a key. Raises `InvalidRequest` if the project does not exist or is archived."""
    # The shared lock prevents the project from being archived until the transaction ends.
    project = session.get(Project, project_id, with_for_update={"read": True})
    if project is None:
        message = f"There is no project '{project_id}'. GET /v1/projects lists the projects."
        raise InvalidRequest(message, param="project_id")
    if project.archived_at is not None:
        raise InvalidRequest(f"The project '{project_id}' is archived. Unarchive it first.", param="project_id")
    new_key = create_key(
        session,
        project_id,
        name,
        granted=granted,
        requests_per_minute=requests_per_minute,
        expires_in=expires_in,
        created_by=actor.key_id,
    )
    after = audit.snapshot(new_key.key, *AUDITED)
    audit.record(session, actor, Action.key_create, new_key.key.id, project_id=project_id, after=after)
    return new_key


def get_key(session: Session, key_id: str, *, lock: bool = False) -> ApiKey:
    """Return the key; `lock` locks its row for the transaction. Raises `NotFound`."""
    statement = select(ApiKey).where(ApiKey.id == key_id)
    if lock:
        statement = statement.with_for_update()
    key = session.scalars(statement, execution_options={"populate_existing": True}).one_or_none()
    if key is None:
        raise NotFound(f"There is no API key '{key_id}'. The id is the eight characters after 'gt_live_'.")
    return key


def list_keys(
    session: Session, *, after: str | None, limit: int, project_id: str | None = None
) -> tuple[list[ApiKey], bool]:
    """Return a page of keys, newest first and including revoked ones, and whether more follow.

    Raises `InvalidRequest` with `param` "after" if `after` is not the id of a key.
    """
    statement = select(ApiKey)
    if project_id is not None:
        statement = statement.where(ApiKey.project_id == project_id)
    if after is not None:
        seen = session.get(ApiKey, after)
        if seen is None:
            raise InvalidRequest(f"'after' is not the id of an item in this list: {after!r}.", param="after")
        statement = statement.where(tuple_(ApiKey.created_at, ApiKey.id) < tuple_(seen.created_at, seen.id))
    rows = session.scalars(statement.order_by(ApiKey.created_at.desc(), ApiKey.id.desc()).limit(limit + 1)).all()
    return list(rows[:limit]), len(rows) > limit


def revoke(session: Session, actor: Actor, key_id: str) -> ApiKey:
    """Revoke a key for good; does nothing if it is revoked already.

    Raises `NotFound`, and `InvalidRequest` for the last key that can create keys.
    """
    administrators = lock_administrators(session)
    key = get_key(session, key_id, lock=True)
    if key.revoked_at is not None:
        return key
    if [administrator.id for administrator in administrators] == [key.id]:
        raise last_administrator_error(f"'{key.id}' is the last administrator's key")
    before = audit.snapshot(key, *AUDITED, "revoked_at")
    key.revoked_at = func.now()
    session.flush()
    session.refresh(key)
    after = audit.snapshot(key, *AUDITED, "revoked_at")
    audit.record(session, actor, Action.key_revoke, key.id, project_id=key.project_id, before=before, after=after)
    return key


def rotate(session: Session, actor: Actor, key_id: str, grace: timedelta) -> NewKey:
    """Create a successor of a key, with the same settings and lifetime. The old key expires within `grace`.

    Raises `NotFound`, and `InvalidRequest` for a key that has ended or was rotated before.
    """
    key = get_key(session, key_id, lock=True)
    ended = key.revoked_at is not None or session.scalar(select(_is_over()).where(ApiKey.id == key_id))
    if ended:
        raise InvalidRequest(f"The API key '{key_id}' has ended. Create a new one instead.")
    if key.replaced_by is not None:
        raise InvalidRequest(f"The API key '{key_id}' was already rotated. Use or rotate '{key.replaced_by}' instead.")
    new_key = create_key(
        session,
        key.project_id,
        key.name,
        granted=key.scopes,
        requests_per_minute=key.requests_per_minute,
        expires_in=None if key.expires_at is None else key.expires_at - key.created_at,
        created_by=actor.key_id,
    )
    before = audit.snapshot(key, "expires_at", "replaced_by")
    key.expires_at = func.least(key.expires_at, func.now() + grace)  # LEAST ignores nulls
    key.replaced_by = new_key.key.id
    session.flush()
    session.refresh(key)
    after = audit.snapshot(key, "expires_at", "replaced_by")
    audit.record(session, actor, Action.key_rotate, key.id, project_id=key.project_id, before=before, after=after)
    return new_key


def any_minted(session: Session) -> bool:
    """Return whether a person has created a key that is still live. Keys that the installation created do not count."""
    live = select(ApiKey.id).where(ApiKey.revoked_at.is_(None), ~_is_over(), ApiKey.created_by.is_not(None))
    return session.scalar(select(live.exists())) is True


def _is_over() -> ColumnElement[bool]:
    return func.coalesce(ApiKey.expires_at <= func.now(), False)


def lock_administrators(session: Session) -> list[ApiKey]:
    """Return the live keys with the scope `admin`, locked.

    The lock serializes revocations: if two administrators are revoked at once, the second transaction sees that the
    first one is gone. Call this before locking other keys or projects, to avoid deadlocks.
    """
    statement = (
        select(ApiKey)
        .join(Project, Project.id == ApiKey.project_id)
        .where(
            ApiKey.scopes.contains([str(Scope.admin)]),
            ApiKey.revoked_at.is_(None),
            ~_is_over(),
            Project.archived_at.is_(None),
        )
        .order_by(ApiKey.id)
        .with_for_update(of=(ApiKey, Project), key_share=True)
    )
    return list(session.scalars(statement))


def last_administrator_error(message: str) -> InvalidRequest:
    """Return the error for a change after which no key could create keys."""
    return InvalidRequest(f"{message}. First create another API key with the scope 'admin'.", code="last_admin_key")
