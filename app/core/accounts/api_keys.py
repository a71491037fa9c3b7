"""Bearer keys: `gt_live_<id8>_<secret32>_<crc6>`. The checksum finds typing errors without the database.

Only a SHA-256 of the secret is stored; docs/adr/0004 says why it is no HMAC.
"""

import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import Final

from sqlalchemy import ColumnElement, Row, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts import audit, scopes
from app.core.accounts.audit import Action, Actor
from app.core.accounts.scopes import Scope
from app.core.accounts.tables import ApiKey, Project
from app.core.errors import AuthenticationFailed

PREFIX: Final = "gt_live_"
DEFAULT_PROJECT: Final = "default"
LAST_USE_INTERVAL: Final = timedelta(minutes=1)
"""How often the last use of a key is written, at most."""
AUDITED: Final = ("name", "scopes", "requests_per_minute", "expires_at")
_SECRET_LENGTH: Final = 32
_CHECKSUM_LENGTH: Final = 6
_KEY_PATTERN: Final = re.compile(r"gt_live_([A-Za-z0-9]{8})_([A-Za-z0-9]{32})_([A-Za-z0-9]{6})")


@dataclass(frozen=True)
class NewKey:
    """A key that was just made. Its text cannot be had again."""

    key: ApiKey
    text: str


@dataclass(frozen=True)
class Identity:
    """A live key and its project."""

    key: ApiKey
    project: Project


def create_key(
    session: Session,
    project_id: str,
    name: str,
    *,
    granted: Iterable[str] = scopes.DEFAULT,
    requests_per_minute: int | None = None,
    expires_in: timedelta | None = None,
    created_by: str | None = None,
) -> NewKey:
    """A new key of the project; it ends so long from now, by the database's clock."""
    key_id = ids.key_id()
    secret = "".join(secrets.choice(ids.ALPHABET) for _ in range(_SECRET_LENGTH))
    body = f"{PREFIX}{key_id}_{secret}"
    text = f"{body}_{_checksum(body)}"
    key = ApiKey(
        id=key_id,
        project_id=project_id,
        name=name,
        secret_hash=_hash(secret),
        last4=text[-4:],
        scopes=list(scopes.canonical(granted)),
        requests_per_minute=requests_per_minute,
        created_by=created_by,
        expires_at=None if expires_in is None else func.now() + expires_in,
    )
    session.add(key)
    session.flush()
    session.refresh(key)
    return NewKey(key, text)


def authenticate(session: Session, text: str) -> Identity:
    """The live key with this text. Raises `AuthenticationFailed` saying what is wrong with it."""
    match = _KEY_PATTERN.fullmatch(text)
    if match is None:
        raise AuthenticationFailed(f"This is no API key of this server: its keys begin with '{PREFIX}'.")
    key_id, secret, checksum = match.groups()
    if not hmac.compare_digest(_checksum(text[: -_CHECKSUM_LENGTH - 1]), checksum):
        raise AuthenticationFailed("The API key is misspelt or cut off (its checksum does not fit); copy it again.")
    row = _find(session, key_id)
    stored_hash = row[0].secret_hash if row is not None else bytes(32)
    if not hmac.compare_digest(stored_hash, _hash(secret)):
        row = None
    return _live(session, row)


def get_identity(session: Session, key_id: str) -> Identity:
    """The live key with this id, for who has proved to hold it before. Raises `AuthenticationFailed`."""
    return _live(session, _find(session, key_id))


def _find(session: Session, key_id: str) -> Row[ApiKey, Project, bool, bool] | None:
    return session.execute(
        select(ApiKey, Project, ApiKey.expires_at <= func.now(), _use_is_stale())
        .join(Project, Project.id == ApiKey.project_id)
        .where(ApiKey.id == key_id)
    ).one_or_none()


def _live(session: Session, row: Row[ApiKey, Project, bool, bool] | None) -> Identity:
    if row is None or row[0].revoked_at is not None:
        raise AuthenticationFailed("This API key is unknown to this server or was revoked; ask for a new one.")
    key, project, expired, stale = row
    # Whoever holds the secret may know the rest.
    if expired and key.expires_at is not None:
        when = f"{key.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        raise AuthenticationFailed(f"This API key expired on {when}; ask for a new one.", code="api_key_expired")
    if project.archived_at is not None:
        message = f"The project '{project.name}' of this API key is archived; an administrator can bring it back."
        raise AuthenticationFailed(message, code="project_archived")
    if stale:
        _record_use(session, key.id)
    return Identity(key, project)


def ensure_bootstrap(session: Session, existing: str | None) -> str:
    """A live key's text with every scope: `existing` if it is one, else a new one of project 'default'."""
    if existing is not None:
        try:
            identity = authenticate(session, existing)
        except AuthenticationFailed:
            pass
        else:
            if Scope.admin in scopes.expand(identity.key.scopes):
                return existing
    session.execute(
        # Two processes may start at once; the loser reads the winner's project.
        insert(Project).values(id=ids.project_id(), name=DEFAULT_PROJECT).on_conflict_do_nothing()
    )
    project_id = session.scalars(select(Project.id).where(Project.name == DEFAULT_PROJECT)).one()
    made = create_key(session, project_id, "bootstrap", granted=scopes.ALL)
    after = audit.snapshot(made.key, *AUDITED)
    audit.record(session, Actor(project_id), Action.key_create, made.key.id, after=after)
    return made.text


def _use_is_stale() -> ColumnElement[bool]:
    return or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.now() - LAST_USE_INTERVAL)


def _record_use(session: Session, key_id: str) -> None:
    """Notes the use, unless another request does so right now: nobody waits for this."""
    # NO KEY: what refers to the key, as idempotent requests do, may be written meanwhile; else they would deadlock.
    unlocked = (
        select(ApiKey.id).where(ApiKey.id == key_id, _use_is_stale()).with_for_update(skip_locked=True, key_share=True)
    )
    session.execute(
        update(ApiKey).where(ApiKey.id.in_(unlocked)).values(last_used_at=func.now()),
        execution_options={"synchronize_session": False},
    )


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _checksum(body: str) -> str:
    value = zlib.crc32(body.encode())
    digits = ""
    for _ in range(_CHECKSUM_LENGTH):
        value, digit = divmod(value, len(ids.ALPHABET))
        digits = ids.ALPHABET[digit] + digits
    return digits
