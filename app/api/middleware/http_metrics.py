"""Counts requests by route template. Paths are not used: clients choose them, so their number is unlimited."""

import time
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.prometheus import HTTP_SECONDS

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED: Final = "unmatched"
PREFIX: Final = "/v1"


class HttpMetrics:
    """ASGI middleware that observes the time to the start of each response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()

        async def observing(message: Message) -> None:
            # Observed when the response starts: for a stream, its end would measure how long the client stayed.
            if message["type"] == "http.response.start":
                method = scope["method"] if scope["method"] in METHODS else "OTHER"
                labels = (method, template(scope), f"{message['status'] // 100}xx")
                HTTP_SECONDS.labels(*labels).observe(time.perf_counter() - started)
            await send(message)

        await self._app(scope, receive, observing)


def template(scope: Scope) -> str:
    """Return the route's path with the names of its parameters, or `UNMATCHED` if no route matches."""
    route: Any = scope.get("route")
    path = getattr(route, "path_format", None) or getattr(route, "path", None)
    if not path:
        return UNMATCHED
    # The routes of a router do not contain the prefix that the router was included with.
    prefix = PREFIX if scope["path"].startswith(f"{PREFIX}/") and not path.startswith(PREFIX) else ""
    return f"{prefix}{path}"
