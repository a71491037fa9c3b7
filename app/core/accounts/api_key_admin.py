"""What administrators do with API keys of any project: mint, list, revoke, rotate."""

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
    """A new key. Raises `InvalidRequest` when there is no such project or it is archived."""
    # Shared lock: the project cannot be archived meanwhile.
    project = session.get(Project, project_id, with_for_update={"read": True})
    if project is None or project.archived_at is not None:
        state = "There is no project" if project is None else "Bring back first the archived project"
        raise InvalidRequest(f"{state} '{project_id}'; GET /v1/projects lists them.", param="project_id")
    made = create_key(
        session,
        project_id,
        name,
        granted=granted,
        requests_per_minute=requests_per_minute,
        expires_in=expires_in,
        created_by=actor.key_id,
    )
    after = audit.snapshot(made.key, *AUDITED)
    audit.record(session, actor, Action.key_create, made.key.id, project_id=project_id, after=after)
    return made


def get_key(session: Session, key_id: str, *, lock: bool = False) -> ApiKey:
    """The key, its row locked for the transaction if asked. Raises `NotFound`."""
    statement = select(ApiKey).where(ApiKey.id == key_id)
    if lock:
        statement = statement.with_for_update()
    key = session.scalars(statement, execution_options={"populate_existing": True}).one_or_none()
    if key is None:
        raise NotFound(f"There is no API key '{key_id}'; its id is the eight characters after 'gt_live_'.")
    return key


def list_keys(
    session: Session, *, after: str | None, limit: int, project_id: str | None = None
) -> tuple[list[ApiKey], bool]:
    """A page of keys, newest first, revoked ones too, and whether there are more.

    Raises `InvalidRequest` with `param` "after" when there is no such key.
    """
    statement = select(ApiKey)
    if project_id is not None:
        statement = statement.where(ApiKey.project_id == project_id)
    if after is not None:
        seen = session.get(ApiKey, after)
        if seen is None:
            raise InvalidRequest(f"'after' names nothing in this list: {after!r}.", param="after")
        statement = statement.where(tuple_(ApiKey.created_at, ApiKey.id) < tuple_(seen.created_at, seen.id))
    rows = session.scalars(statement.order_by(ApiKey.created_at.desc(), ApiKey.id.desc()).limit(limit + 1)).all()
    return list(rows[:limit]), len(rows) > limit


def revoke(session: Session, actor: Actor, key_id: str) -> ApiKey:
    """Ends a key for good; asking again changes nothing.

    Raises `NotFound`, and `InvalidRequest` for the last key that could make another one.
    """
    administrators = lock_administrators(session)
    key = get_key(session, key_id, lock=True)
    if key.revoked_at is not None:
        return key
    if [one.id for one in administrators] == [key.id]:
        raise last_administrator(f"'{key.id}' is the last administrator's key")
    before = audit.snapshot(key, *AUDITED, "revoked_at")
    key.revoked_at = func.now()
    session.flush()
    session.refresh(key)
    after = audit.snapshot(key, *AUDITED, "revoked_at")
    audit.record(session, actor, Action.key_revoke, key.id, project_id=key.project_id, before=before, after=after)
    return key


def rotate(session: Session, actor: Actor, key_id: str, grace: timedelta) -> NewKey:
    """A new key like this one, with as long a life; the old one is good for `grace` from now on, no longer.

    Raises `NotFound`, and `InvalidRequest` for a key that has ended or was rotated before.
    """
    key = get_key(session, key_id, lock=True)
    ended = key.revoked_at is not None or session.scalar(select(_is_over()).where(ApiKey.id == key_id))
    if ended:
        raise InvalidRequest(f"The API key '{key_id}' has ended; create a new one instead.")
    if key.replaced_by is not None:
        raise InvalidRequest(f"The API key '{key_id}' was rotated already; rotate '{key.replaced_by}' instead.")
    made = create_key(
        session,
        key.project_id,
        key.name,
        granted=key.scopes,
        requests_per_minute=key.requests_per_minute,
        expires_in=None if key.expires_at is None else key.expires_at - key.created_at,
        created_by=actor.key_id,
    )
    before = audit.snapshot(key, "expires_at", "replaced_by")
    key.expires_at = func.least(key.expires_at, func.now() + grace)  # LEAST passes over a null
    key.replaced_by = made.key.id
    session.flush()
    session.refresh(key)
    after = audit.snapshot(key, "expires_at", "replaced_by")
    audit.record(session, actor, Action.key_rotate, key.id, project_id=key.project_id, before=before, after=after)
    return made


def any_minted(session: Session) -> bool:
    """Whether there is a live key that a person has made, besides those that the installation made for itself."""
    live = select(ApiKey.id).where(ApiKey.revoked_at.is_(None), ~_is_over(), ApiKey.created_by.is_not(None))
    return session.scalar(select(live.exists())) is True


def _is_over() -> ColumnElement[bool]:
    return func.coalesce(ApiKey.expires_at <= func.now(), False)


def lock_administrators(session: Session) -> list[ApiKey]:
    """The live keys with the scope `admin`, locked: of two that leave at once, the second sees the first gone.

    Call it before any other lock on keys or projects.
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


def last_administrator(message: str) -> InvalidRequest:
    """The error for a change after which nobody could make keys any more."""
    return InvalidRequest(f"{message}; create another API key with the scope 'admin' first.", code="last_admin_key")
