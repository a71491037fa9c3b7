"""API keys for the Authorization header: `gt_live_<id8>_<secret32>_<crc6>`.

`crc6` is the CRC-32 of all preceding characters, written with six digits of base 62. It detects misspelt and truncated
keys without a query. It protects nothing, because anyone can compute it.

The database finds the row by `id8` and stores only a SHA-256 of the secret; docs/adr/0004 explains why it is no HMAC.
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
from app.core.accounts.tables import ApiKey, Project
from app.core.errors import AuthenticationFailed

PREFIX: Final = "gt_live_"
DEFAULT_PROJECT: Final = "default"
LAST_USE_INTERVAL: Final = timedelta(minutes=1)
"""Minimal interval between two writes of a key's last use."""
AUDITED: Final = ("name", "scopes", "requests_per_minute", "expires_at")
_SECRET_LENGTH: Final = 32
_CHECKSUM_LENGTH: Final = 6
_KEY_PATTERN: Final = re.compile(r"gt_live_([A-Za-z0-9]{8})_([A-Za-z0-9]{32})_([A-Za-z0-9]{6})")


@dataclass(frozen=True)
class NewKey:
    """A newly created key. Its text is not stored and cannot be shown again."""

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
    """Create a key of the project. It expires after `expires_in`, by the database's clock."""
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
    """Return the live key with this text. Raises `AuthenticationFailed`, which states what is wrong with it."""
    match = _KEY_PATTERN.fullmatch(text)
    if match is None:
        raise AuthenticationFailed(f"This is not an API key of this server: its keys begin with '{PREFIX}'.")
    key_id, secret, checksum = match.groups()
    if not hmac.compare_digest(_checksum(text[: -_CHECKSUM_LENGTH - 1]), checksum):
        raise AuthenticationFailed("The API key is misspelt or truncated (its checksum does not match). Copy it again.")
    row = _find(session, key_id)
    stored_hash = row[0].secret_hash if row is not None else bytes(32)
    if not hmac.compare_digest(stored_hash, _hash(secret)):
        row = None
    return _live(session, row)


def get_identity(session: Session, key_id: str) -> Identity:
    """Return the live key with this id. The holder must be authenticated already. Raises `AuthenticationFailed`."""
    return _live(session, _find(session, key_id))


def _find(session: Session, key_id: str) -> Row[ApiKey, Project, bool, bool] | None:
    return session.execute(
        select(ApiKey, Project, ApiKey.expires_at <= func.now(), _use_is_stale())
        .join(Project, Project.id == ApiKey.project_id)
        .where(ApiKey.id == key_id)
    ).one_or_none()


def _live(session: Session, row: Row[ApiKey, Project, bool, bool] | None) -> Identity:
    if row is None or row[0].revoked_at is not None:
        raise AuthenticationFailed("This API key is unknown to this server or was revoked. Request a new one.")
    key, project, expired, stale = row
    # The caller holds the secret, so the messages below may reveal the state of the key and the name of its project.
    if expired and key.expires_at is not None:
        when = f"{key.expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        raise AuthenticationFailed(f"This API key expired on {when}. Request a new one.", code="api_key_expired")
    if project.archived_at is not None:
        message = f"The project '{project.name}' of this API key is archived. An administrator can unarchive it."
        raise AuthenticationFailed(message, code="project_archived")
    if stale:
        _record_use(session, key.id)
    return Identity(key, project)


def ensure_bootstrap(session: Session, existing: str | None) -> str:
    """Return a live key's text with all scopes: `existing` if it qualifies, else a new key of the project 'default'."""
    if existing is not None:
        try:
            identity = authenticate(session, existing)
        except AuthenticationFailed:
            pass
        else:
            if scopes.expand(scopes.ALL) <= scopes.expand(identity.key.scopes):
                return existing
    session.execute(
        # Two processes may start at once. The second one to insert reads the first one's project.
        insert(Project).values(id=ids.project_id(), name=DEFAULT_PROJECT).on_conflict_do_nothing()
    )
    project_id = session.scalars(select(Project.id).where(Project.name == DEFAULT_PROJECT)).one()
    new_key = create_key(session, project_id, "bootstrap", granted=scopes.ALL)
    after = audit.snapshot(new_key.key, *AUDITED)
    audit.record(session, Actor(project_id), Action.key_create, new_key.key.id, after=after)
    return new_key.text


def _use_is_stale() -> ColumnElement[bool]:
    return or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.now() - LAST_USE_INTERVAL)


def _record_use(session: Session, key_id: str) -> None:
    """Write the time of use. Does not wait: skips the write while another transaction has locked the row."""
    # FOR NO KEY UPDATE, because rows that reference the key (idempotent requests) lock it FOR KEY SHARE. With FOR
    # UPDATE the two transactions could deadlock.
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
