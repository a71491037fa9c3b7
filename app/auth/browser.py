"""The dashboard's session: an opaque cookie, and the check that a request comes from the dashboard itself."""

from typing import Final
from urllib.parse import urlsplit

from fastapi import Request, Response

from app.core.accounts.browser_sessions import SESSION_LIFE
from app.core.errors import PermissionDenied

COOKIE: Final = "grouptune_session"
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class CrossSiteRequest(PermissionDenied):
    """A page of another site sent this request with the dashboard's cookie. Use the dashboard itself, or an API key."""

    code = "cross_site_request"


def token_of(request: Request) -> str | None:
    """Return the browser's session token. Raises `CrossSiteRequest` for a change that another site's page requests."""
    token = request.cookies.get(_name(request))
    if token is not None:
        check_origin(request)
    return token


def check_origin(request: Request) -> None:
    """Raises `CrossSiteRequest` unless the method changes nothing or the dashboard itself sent the request.

    Checks `Sec-Fetch-Site`, which no page can forge. Browsers without it send `Origin` with every change.
    """
    if request.method in SAFE_METHODS:
        return
    site = request.headers.get("sec-fetch-site")
    if site is None:
        origin = urlsplit(request.headers.get("origin", ""))
        is_own = bool(origin.netloc) and origin.netloc == request.headers.get("host")
    else:
        is_own = site == "same-origin"
    if not is_own:
        raise CrossSiteRequest


def remember(request: Request, response: Response, token: str) -> None:
    """Store the token in the browser, out of reach of scripts."""
    response.set_cookie(
        _name(request),
        token,
        max_age=int(SESSION_LIFE.total_seconds()),
        secure=_is_encrypted(request),
        httponly=True,
        samesite="lax",
    )


def forget(request: Request, response: Response) -> None:
    """Delete the browser's token."""
    response.delete_cookie(_name(request), secure=_is_encrypted(request), httponly=True, samesite="lax")


def _name(request: Request) -> str:
    """Return the cookie's name. Browsers protect `__Host-` cookies from other hosts, but require HTTPS for them."""
    return f"__Host-{COOKIE}" if _is_encrypted(request) else COOKIE


def _is_encrypted(request: Request) -> bool:
    return request.url.scheme == "https"
