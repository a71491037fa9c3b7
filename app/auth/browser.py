"""The dashboard's session: an opaque cookie, and the proof that a request comes from the dashboard itself."""

from typing import Final
from urllib.parse import urlsplit

from fastapi import Request, Response

from app.core.accounts.browser_sessions import SESSION_LIFE
from app.core.errors import PermissionDenied

COOKIE: Final = "grouptune_session"
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class CrossSiteRequest(PermissionDenied):
    """A page of another site sent this with the dashboard's cookie; use the dashboard itself, or an API key."""

    code = "cross_site_request"


def token_of(request: Request) -> str | None:
    """What the browser holds. Raises `CrossSiteRequest` for a change that another site's page asks for."""
    token = request.cookies.get(_name(request))
    if token is not None:
        check_origin(request)
    return token


def check_origin(request: Request) -> None:
    """Raises `CrossSiteRequest` unless the method changes nothing or the request is the dashboard's own.

    By `Sec-Fetch-Site`, which no page can forge; browsers without it send `Origin` with every change.
    """
    if request.method in SAFE_METHODS:
        return
    site = request.headers.get("sec-fetch-site")
    if site is None:
        origin = urlsplit(request.headers.get("origin", ""))
        own = bool(origin.netloc) and origin.netloc == request.headers.get("host")
    else:
        own = site == "same-origin"
    if not own:
        raise CrossSiteRequest


def remember(request: Request, response: Response, token: str) -> None:
    """Lets the browser keep the token, out of the reach of scripts."""
    response.set_cookie(
        _name(request),
        token,
        max_age=int(SESSION_LIFE.total_seconds()),
        secure=_is_encrypted(request),
        httponly=True,
        samesite="lax",
    )


def forget(request: Request, response: Response) -> None:
    """Takes the token away again."""
    response.delete_cookie(_name(request), secure=_is_encrypted(request), httponly=True, samesite="lax")


def _name(request: Request) -> str:
    """Browsers keep a `__Host-` cookie from other hosts and from plain HTTP, where the prefix is not to be had."""
    return f"__Host-{COOKIE}" if _is_encrypted(request) else COOKIE


def _is_encrypted(request: Request) -> bool:
    return request.url.scheme == "https"
