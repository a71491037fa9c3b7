"""Bearer keys: `gt_live_<id8>_<secret32>_<crc6>`. The checksum finds typing errors without the database."""

import hashlib
import hmac
import re
import secrets
import zlib
from typing import Final

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts.tables import ApiKey, Project
from app.core.errors import AuthenticationFailed

PREFIX: Final = "gt_live_"
DEFAULT_PROJECT: Final = "default"
_SECRET_LENGTH: Final = 32
_CHECKSUM_LENGTH: Final = 6
_FORM: Final = re.compile(r"gt_live_([A-Za-z0-9]{8})_([A-Za-z0-9]{32})_([A-Za-z0-9]{6})")


def create_key(session: Session, project_id: str, name: str) -> str:
    """A new key of the project. Its text is returned once and cannot be had again."""
    key_id = ids.key_id()
    secret = "".join(secrets.choice(ids.ALPHABET) for _ in range(_SECRET_LENGTH))
    body = f"{PREFIX}{key_id}_{secret}"
    text = f"{body}_{_checksum(body)}"
    session.add(ApiKey(id=key_id, project_id=project_id, name=name, secret_hash=_hash(secret), last4=text[-4:]))
    session.flush()
    return text


def authenticate(session: Session, text: str) -> ApiKey:
    """The live key with this text. Raises `AuthenticationFailed` saying whether it is misspelt or unknown."""
    form = _FORM.fullmatch(text)
    if form is None:
        raise AuthenticationFailed(f"This is no API key of this server: its keys begin with '{PREFIX}'.")
    key_id, secret, checksum = form.groups()
    if not hmac.compare_digest(_checksum(text[: -_CHECKSUM_LENGTH - 1]), checksum):
        raise AuthenticationFailed("The API key is misspelt or cut off (its checksum does not fit); copy it again.")
    key = session.get(ApiKey, key_id)
    known = key.secret_hash if key is not None else bytes(32)
    if not hmac.compare_digest(known, _hash(secret)) or key is None or key.revoked_at is not None:
        raise AuthenticationFailed("This API key is unknown to this server or was revoked; ask for a new one.")
    return key


def ensure_bootstrap(session: Session, existing: str | None) -> str:
    """A live key's text: `existing` if it is one, else a new one of project 'default' (made if absent)."""
    if existing is not None:
        try:
            authenticate(session, existing)
        except AuthenticationFailed:
            pass
        else:
            return existing
    session.execute(
        # Two processes may start at once; the loser reads the winner's project.
        insert(Project).values(id=ids.project_id(), name=DEFAULT_PROJECT).on_conflict_do_nothing()
    )
    project_id = session.scalars(select(Project.id).where(Project.name == DEFAULT_PROJECT)).one()
    return create_key(session, project_id, "bootstrap")


def _hash(secret: str) -> bytes:
    # Plain SHA-256: the secret has 190 random bits, so there is nothing to stretch.
    return hashlib.sha256(secret.encode()).digest()


def _checksum(body: str) -> str:
    value = zlib.crc32(body.encode())
    digits = ""
    for _ in range(_CHECKSUM_LENGTH):
        value, digit = divmod(value, len(ids.ALPHABET))
        digits = ids.ALPHABET[digit] + digits
    return digits
