"""Browser sessions, which act for an API key and end with it, and sign-in links, each redeemed for one session."""

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.core.accounts import api_keys
from app.core.accounts.api_keys import Identity
from app.core.accounts.tables import BrowserSession
from app.core.errors import AuthenticationFailed

LINK_LIFE: Final = timedelta(minutes=10)
SESSION_LIFE: Final = timedelta(days=7)
_TOKEN_BYTES: Final = 32


def sign_in(session: Session, key_id: str) -> str:
    """Create a session for the key; returns its token."""
    return _create(session, key_id, SESSION_LIFE, is_link=False)[0]


def create_link(session: Session, key_id: str) -> tuple[str, datetime]:
    """Create a sign-in link for the key; returns its code and when it expires."""
    return _create(session, key_id, LINK_LIFE, is_link=True)


def redeem_link(session: Session, code: str) -> str:
    """Consume a sign-in link; returns the id of the key it was created for. Raises `AuthenticationFailed`."""
    spent = (
        delete(BrowserSession)
        .where(BrowserSession.token_hash == _hash(code), BrowserSession.is_link, BrowserSession.expires_at > func.now())
        .returning(BrowserSession.api_key_id)
    )
    key_id = session.scalars(spent).one_or_none()
    if key_id is None:
        raise AuthenticationFailed(
            "This sign-in link has been used or is older than ten minutes. Sign in with an API key, or get a new link "
            "with `grouptune dashboard`.",
            code="link_expired",
        )
    return key_id


def authenticate(session: Session, token: str) -> Identity:
    """Return the key that the session acts for. Raises `AuthenticationFailed` if the session or the key has ended."""
    live = select(BrowserSession.api_key_id).where(
        BrowserSession.token_hash == _hash(token), ~BrowserSession.is_link, BrowserSession.expires_at > func.now()
    )
    key_id = session.scalars(live).one_or_none()
    if key_id is None:
        raise AuthenticationFailed("You are signed out. Sign in again.", code="session_expired")
    return api_keys.get_identity(session, key_id)


def sign_out(session: Session, token: str) -> None:
    """Delete the session if it exists."""
    session.execute(delete(BrowserSession).where(BrowserSession.token_hash == _hash(token), ~BrowserSession.is_link))


def _create(session: Session, key_id: str, life: timedelta, *, is_link: bool) -> tuple[str, datetime]:
    session.execute(delete(BrowserSession).where(BrowserSession.expires_at <= func.now()))
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    row = BrowserSession(token_hash=_hash(token), api_key_id=key_id, is_link=is_link, expires_at=func.now() + life)
    session.add(row)
    session.flush()
    session.refresh(row)
    return token, row.expires_at


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
