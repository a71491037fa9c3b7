"""Outermost middleware: each request's id and headers, and an envelope for what nobody caught."""

import time

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import InternalError, respond
from app.core import ids

log = structlog.get_logger(__name__)

OPENAI_VERSION = "2020-10-01"
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked all the time; their answers are told only when something is wrong."""


class RequestIds:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = ids.request_id()
        started = time.perf_counter()
        status: int | None = None
        # What only a handler knows of its answer's headers; they also go with errors.
        answer_headers: dict[str, str] = {}
        scope.setdefault("state", {}).update(request_id=request_id, answer_headers=answer_headers)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = str(round((time.perf_counter() - started) * 1000))
                headers["openai-version"] = OPENAI_VERSION
                headers["x-content-type-options"] = "nosniff"
                headers.update(answer_headers)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_headers)
            except ClientDisconnect:
                log.info("request.abandoned", path=scope["path"])
            # The boundary: whatever it is, the client gets an envelope and the log a traceback.
            except Exception:
                log.exception("request.crashed", method=scope["method"], path=scope["path"])
                if status is not None:
                    raise
                await respond(InternalError())(scope, receive, send_with_headers)
            finally:
                _tell(scope, status, time.perf_counter() - started)


def _tell(scope: Scope, status: int | None, seconds: float) -> None:
    """The line about a request. Its query is left out: clients put what is theirs into it."""
    if scope["path"] in PROBES and status == 200:
        return
    job = scope.get("path_params", {}).get("job_id")
    about = {} if job is None else {"job": job}
    log.info(
        "request.answered",
        method=scope["method"],
        path=scope["path"],
        status=status,
        seconds=round(seconds, 4),
        **about,
    )
