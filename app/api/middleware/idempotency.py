"""Middleware: a POST with an `Idempotency-Key`, and a retry of OpenAI's SDK, takes effect once and is answered alike.

The key's rules are in docs/idempotency.md. Multipart bodies are told apart by path and length alone: their boundary is
random, so that equal uploads differ in their bytes, and hashing them would mean to hold them back.
"""

import asyncio
import hashlib
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import structlog
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import respond
from app.core.accounts import idempotency
from app.core.accounts.idempotency import Answer, InProgress, Reserved, Running
from app.core.db import Database
from app.core.errors import AuthenticationFailed, DatabaseUnavailable, GrouptuneError, InvalidRequest

MAX_KEY: Final = 255
WAIT_SECONDS: Final = 60.0
"""How long a request waits for the first one's answer."""
FIRST_LOOK_SECONDS: Final = 0.05
LAST_LOOK_SECONDS: Final = 1.0
SECRET: Final = re.compile(r"/v1/(api_keys(/[^/]+/rotate)?|webhook_endpoints(/[^/]+/rotate_secret)?|oidc/exchange)/?")
"""Routes whose answers show a secret once; those are never kept."""

T = TypeVar("T")

log = structlog.get_logger(__name__)


class AnswerNotKept(GrouptuneError):
    """The first request with this Idempotency-Key succeeded, and its answer held a secret, which is shown only once."""

    status = 409
    type = "invalid_request_error"
    code = "answer_not_kept"


class Idempotency:
    """ASGI middleware; inside of `BodyLimit`, because it holds JSON bodies."""

    def __init__(self, app: ASGIApp, database: Database) -> None:
        self._app = app
        self._database = database

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        key = headers.get("idempotency-key") or headers.get("x-idempotency-key")
        multipart = headers.get("content-type", "").startswith("multipart/")
        secret = SECRET.fullmatch(scope["path"]) is not None
        count = headers.get("x-stainless-retry-count", "")
        if key is None and (multipart or secret or not re.fullmatch(r"\d{1,3}", count)):
            await self._app(scope, receive, send)
            return
        if key is not None and not 0 < len(key) <= MAX_KEY:
            error = InvalidRequest(f"An Idempotency-Key has 1 to {MAX_KEY} characters.", param="Idempotency-Key")
            await respond(error)(scope, receive, send)
            return
        body = headers.get("content-length", "").encode()
        if not multipart:
            body = await _whole(receive)
            receive = _again(body, receive)
        fingerprint = hashlib.sha256(b"\0".join((scope["path"].encode(), scope["query_string"], body))).digest()
        await self._once(_Sent(_token(headers), key, fingerprint, int(count or 0), secret), scope, receive, send)

    async def _once(self, sent: "_Sent", scope: Scope, receive: Receive, send: Send) -> None:
        try:
            found = await self._find(sent)
        except AuthenticationFailed:  # the route says so, with its own words
            await self._app(scope, receive, send)
            return
        except GrouptuneError as error:
            response = respond(error, {"retry-after": "2"} if isinstance(error, InProgress) else None)
            await response(scope, receive, send)
            return
        if isinstance(found, Answer):
            await _replay(found)(scope, receive, send)
            return
        await self._run(found.row_id, sent, scope, receive, send)

    async def _find(self, sent: "_Sent") -> Answer | Reserved:
        """The answer of the first request, waited for, or leave to run."""
        begun, pause = time.monotonic(), FIRST_LOOK_SECONDS
        look_up = partial(
            idempotency.look_up, token=sent.token, key=sent.key, fingerprint=sent.fingerprint, attempt=sent.attempt
        )
        found = await self._transaction(look_up)
        while isinstance(found, Running):
            if time.monotonic() - begun > WAIT_SECONDS:
                raise InProgress
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads the waiting, no secret
            pause = min(2 * pause, LAST_LOOK_SECONDS)
            seen = await self._transaction(partial(idempotency.look, row_id=found.row_id))
            found = await self._transaction(look_up) if seen is None else seen
        return found

    async def _run(self, row_id: int, sent: "_Sent", scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the request; its answer goes out once it is kept."""
        start: Message = {}
        body = bytearray()
        settled = False

        async def keeping(message: Message) -> None:
            nonlocal start, settled
            if message["type"] == "http.response.start":
                start = message
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            settled = True
            if 200 <= start["status"] < 300:
                answer = Answer(start["status"], None if sent.secret else bytes(body))
                await self._settle(partial(idempotency.keep, row_id=row_id, answer=answer))
            else:
                await self._settle(partial(idempotency.release, row_id=row_id))
            await send(start)
            await send({"type": "http.response.body", "body": bytes(body)})

        try:
            await self._app(scope, receive, keeping)
        finally:
            if not settled:
                await self._settle(partial(idempotency.release, row_id=row_id))

    async def _settle(self, work: Callable[..., None]) -> None:
        """Writes down what became of the request. If Postgres goes away just now its answer is good all the same."""
        try:
            await self._transaction(work)
        except DatabaseUnavailable as error:
            log.warning("idempotency.not_settled", error=error.message)

    async def _transaction(self, work: Callable[..., T]) -> T:
        def once() -> T:
            with self._database.transaction() as session:
                return work(session)

        return await run_in_threadpool(once)


@dataclass(frozen=True)
class _Sent:
    """A request as far as it tells it from others."""

    token: str
    """The text of the API key."""
    key: str | None
    fingerprint: bytes
    attempt: int
    secret: bool


def _token(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _replay(answer: Answer) -> Response:
    if answer.body is None:
        return respond(AnswerNotKept(param="Idempotency-Key"), {"x-should-retry": "false"})
    return Response(answer.body, answer.status, {"idempotent-replayed": "true"}, "application/json")


async def _whole(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that begins with the whole body."""
    told = False

    async def replayed() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
