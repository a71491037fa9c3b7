"""OpenAI's error envelope for every error, whether a handler, the framework or a crash caused it."""

import errno
import json
import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from app.api.validation_errors import explain
from app.core.accounts.effects import RequestInProgress
from app.core.errors import (
    AuthenticationFailed,
    DatabaseUnavailable,
    GrouptuneError,
    InvalidRequest,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    PermissionDenied,
    RateLimited,
)
from app.core.parse_errors import why_not_json

log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS: Final = 2


class InternalError(GrouptuneError):
    """The server failed because of a bug. Its log has the details under this request's id."""

    code = "internal_error"


class StorageFull(GrouptuneError):
    """The server's disk is full. Free space in its state directory, then send this request again."""

    status = 507
    code = "storage_full"
    retry_helps = False  # OpenAI's clients would send the whole file each time


class RouteNotFound(NotFound):
    """This route does not exist."""

    code = "route_not_found"


class MethodNotAllowed(InvalidRequest):
    """This route does not support this HTTP method."""

    status = 405
    code = "method_not_allowed"


_BY_STATUS: Final[dict[int, type[GrouptuneError]]] = {
    400: InvalidRequest,
    401: AuthenticationFailed,
    403: PermissionDenied,
    404: NotFound,
    413: PayloadTooLarge,
    429: RateLimited,
    503: Overloaded,
}


def envelope(error: GrouptuneError) -> str:
    """Return the error in OpenAI's envelope, as JSON.

    ASCII only: a message may quote a lone surrogate, which UTF-8 cannot encode.
    """
    body = {"message": error.message_for_clients, "type": error.type, "param": error.param, "code": error.code}
    return json.dumps({"error": body})


def respond(error: GrouptuneError, headers: dict[str, str] | None = None) -> Response:
    """Return the error as a response in OpenAI's envelope."""
    extra = dict(headers or {})
    if error.retry_after_seconds is not None:
        extra["retry-after"] = str(math.ceil(error.retry_after_seconds))
    elif (error.status == DatabaseUnavailable.status and error.retry_helps) or isinstance(error, RequestInProgress):
        extra.setdefault("retry-after", str(RETRY_AFTER_SECONDS))
    if isinstance(error, RateLimited):
        extra["retry-after-ms"] = str(math.ceil(1000 * (error.retry_after_seconds or 0)))
    if not error.retry_helps:
        extra["x-should-retry"] = "false"  # OpenAI's clients retry 429 and 5xx
    if error.status == AuthenticationFailed.status:
        extra["www-authenticate"] = "Bearer"
    return Response(envelope(error), error.status, extra, "application/json")


def install(app: FastAPI) -> None:
    """Register the handlers, after all routes. An exception that none of them handles ends in `request_ids`."""
    app.add_exception_handler(GrouptuneError, _grouptune)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, partial(_framework, _methods_by_path(app)))
    app.add_exception_handler(OSError, _disk)


def _grouptune(request: Request, error: Exception) -> Response:
    if not isinstance(error, GrouptuneError):
        raise error
    if error.status >= 500:
        log.error("request.failed", code=error.code, message=error.message, path=request.url.path)
    return respond(error)


def _invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    field: Any = getattr(request.scope.get("route"), "body_field", None)
    message, param = explain(error.errors(), field.field_info.annotation if field else None, error.body)
    return respond(InvalidRequest(message, param=param))


_MethodsByPath = Sequence[tuple[re.Pattern[str], frozenset[str]]]


def _methods_by_path(app: FastAPI) -> _MethodsByPath:
    """Return the pattern of each route's path, with its methods. Every GET route also answers HEAD."""
    contexts = [context for context in iter_route_contexts(app.routes) if context.path is not None]
    methods = [frozenset(context.methods or ()) for context in contexts]
    return [
        (compile_path(str(context.path))[0], own | {"HEAD"} if "GET" in own else own)
        for context, own in zip(contexts, methods, strict=True)
    ]


def _framework(methods_by_path: _MethodsByPath, request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    path = request.url.path
    headers = dict(error.headers or {})
    if error.status_code == RouteNotFound.status:
        hint = "" if path.startswith("/v1/") else " All API routes start with /v1: set base_url to end in '/v1'."
        return respond(RouteNotFound(f"The route {request.method} {path} does not exist.{hint}"), headers)
    if error.status_code == MethodNotAllowed.status:
        # The framework names the methods of one route only.
        matching = [methods for pattern, methods in methods_by_path if pattern.match(request.scope["path"])]
        allowed = ", ".join(sorted(frozenset().union(*matching)))
        return respond(
            MethodNotAllowed(f"{path} does not support {request.method}; use {allowed}."), {"allow": allowed}
        )
    if (problem := why_not_json(error.__cause__)) is not None:
        return respond(InvalidRequest(f"The body is not valid JSON: {problem}."), headers)
    kind = _BY_STATUS.get(error.status_code, InvalidRequest if error.status_code < 500 else InternalError)
    response = respond(kind(str(error.detail)), headers)
    response.status_code = error.status_code
    return response


def _disk(_request: Request, error: Exception) -> Response:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        log.error("storage.full", error=str(error))
        return respond(StorageFull())
    raise error
