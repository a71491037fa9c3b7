"""`/v1/dashboard`: signs a browser in and out. For everything else the dashboard uses the public API."""

from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from app.api.deps import Config, Db
from app.api.schemas.dashboard import LinkObject, SessionEnded, SessionObject, SignIn
from app.auth import bearer, browser
from app.auth.bearer import Caller
from app.core.accounts import api_keys, browser_sessions
from app.core.accounts.api_keys import Identity
from app.core.errors import AuthenticationFailed
from app.core.settings import Settings
from app.core.workers import presence

router = APIRouter(prefix="/dashboard", tags=["Dashboard"])


@router.post("/session")
def sign_in(body: SignIn, request: Request, response: Response, database: Db, settings: Config) -> SessionObject:
    """Sign this browser in with an API key or with the code of a sign-in link."""
    browser.check_origin(request)
    with database.transaction() as session:
        if body.code is not None:
            identity = api_keys.get_identity(session, browser_sessions.redeem_link(session, body.code))
        else:
            identity = api_keys.authenticate(session, body.api_key or "")
        token = browser_sessions.sign_in(session, identity.key.id)
        answer = _session(request, identity, session, settings)
    browser.remember(request, response, token)
    return answer


@router.get("/session")
def current_session(request: Request, database: Db, settings: Config) -> SessionObject:
    """Return whether this browser is signed in, and with which key and project."""
    token = browser.token_of(request)
    if token is None:
        return SessionObject(signed_in=False)
    try:
        with database.reading() as session:
            identity = browser_sessions.authenticate(session, token)
            return _session(request, identity, session, settings)
    except AuthenticationFailed:
        return SessionObject(signed_in=False)


def _session(request: Request, identity: Identity, session: Any, settings: Settings) -> SessionObject:
    return SessionObject.of(
        bearer.principal_of(request, identity),
        has_engine=bool(settings.serve_url),
        trackers=presence.available_trackers(session, settings.trackers, settings.lease_seconds),
    )


@router.delete("/session")
def sign_out(request: Request, response: Response, database: Db) -> SessionEnded:
    """Sign this browser out."""
    token = browser.token_of(request)
    if token is not None:
        with database.transaction() as session:
            browser_sessions.sign_out(session, token)
    browser.forget(request, response)
    return SessionEnded()


@router.post("/links", dependencies=[Depends(bearer.scheme)])
def make_link(caller: Caller, database: Db) -> LinkObject:
    """Create a link that signs one browser in with this key. It is valid for ten minutes."""
    with database.transaction() as session:
        code, expires_at = browser_sessions.create_link(session, caller.key_id)
    return LinkObject(code=code, expires_at=int(expires_at.timestamp()))
