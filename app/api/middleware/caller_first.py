"""Finds out who sends a request before its body is read, and charges that caller's rate limit.

FastAPI reads and parses a body before it runs a route's dependencies. Without this, a request without a key would cost
as much as one with a key, and a repetition that `Idempotency` answers would cost its sender nothing.
"""

from collections.abc import Collection
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.errors import respond
from app.auth.bearer import principal
from app.core.errors import GrouptuneError

_BODILESS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class CallerFirst:
    """ASGI middleware: 401 or 429 for requests that may have a body, except for those of `public` paths.

    `app.auth.bearer.principal` returns the caller that it found. It must run inside `RequestIds`, whose headers it adds
    to, and outside everything that reads bodies.
    """

    def __init__(self, app: ASGIApp, public: Collection[str]) -> None:
        self._app = app
        self._public = frozenset(public)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _BODILESS and self._is_private(scope["path"]):
            request = Request(scope)
            try:
                request.state.principal = await principal(request)
            except GrouptuneError as error:
                await respond(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_private(self, path: str) -> bool:
        return path.startswith("/v1/") and path.rstrip("/") not in self._public
