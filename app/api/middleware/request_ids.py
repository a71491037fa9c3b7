"""The outermost middleware: request ids, common headers, the request log, and an envelope for uncaught exceptions."""

import time

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import InternalError, respond
from app.core import ids
from app.core.errors import InvalidRequest

log = structlog.get_logger(__name__)

OPENAI_VERSION = "2020-10-01"
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Polled all the time; logged only when the response is not 200."""


class NestedTooDeeply(InvalidRequest):
    """The JSON of the request is nested too deeply. Send fewer objects and lists inside each other."""

    code = "nested_too_deeply"


class RequestIds:
    """ASGI middleware that assigns an id to each request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = ids.request_id()
        started = time.perf_counter()
        status: int | None = None
        # Headers that only a handler can compute, such as rate limits; error responses include them too.
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
            except RecursionError:  # code that walks through JSON fits on the stack for any other body
                log.warning("request.too_deep", method=scope["method"], path=scope["path"], exc_info=True)
                if status is not None:
                    raise
                await respond(NestedTooDeeply())(scope, receive, send_with_headers)
            # The outer boundary: whatever the exception, the client gets an envelope and the log a traceback.
            except Exception:
                log.exception("request.crashed", method=scope["method"], path=scope["path"])
                if status is not None:
                    raise
                await respond(InternalError())(scope, receive, send_with_headers)
            finally:
                _log_request(scope, status, time.perf_counter() - started)


def _log_request(scope: Scope, status: int | None, seconds: float) -> None:
    """Log a request without its query, which may contain private data."""
    if scope["path"] in PROBES and status == 200:
        return
    job = scope.get("path_params", {}).get("job_id")
    fields = {} if job is None else {"job": job}
    log.info(
        "request.answered",
        method=scope["method"],
        path=scope["path"],
        status=status,
        seconds=round(seconds, 4),
        **fields,
    )
