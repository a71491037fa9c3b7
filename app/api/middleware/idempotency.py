"""Middleware: a POST that is sent again takes effect once; every repetition gets the first one's response.

A repetition is recognised by its `Idempotency-Key` or, without one, by the retry count that OpenAI's SDK sends. The
rules are in docs/idempotency.md.

Multipart bodies are compared by path and length only. Their boundary is random, so equal uploads differ in their bytes,
and a hash of the body would require holding the whole upload back.
"""

import asyncio
import hashlib
import random
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import structlog
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import respond
from app.auth.credentials import key_of
from app.core.accounts import effects, idempotency
from app.core.accounts.effects import RequestInProgress, Reservation
from app.core.accounts.idempotency import LookupResult, RequestRunning, StoredResponse
from app.core.db import Database
from app.core.errors import AuthenticationFailed, DatabaseUnavailable, GrouptuneError, InvalidRequest
from app.core.retry import RetryPolicy, retry_async

MAX_KEY: Final = 255
WAIT_SECONDS: Final = 60.0
"""How long a repetition waits for the response of the first request."""
FIRST_POLL_SECONDS: Final = 0.05
LAST_POLL_SECONDS: Final = 1.0
RENEW_SECONDS: Final = idempotency.LEASE_SECONDS / 4
SETTLE_POLICY: Final = RetryPolicy(attempts=1000, longest_wait_seconds=1.0)
"""Lasts longer than an outage of Postgres that clients wait for."""
SECRET: Final = re.compile(r"/v1/(api_keys(/[^/]+/rotate)?|webhook_endpoints(/[^/]+/rotate_secret)?|oidc/exchange)/?")
"""Routes whose responses show a secret once; these responses are never stored."""

INFERENCE: Final = re.compile(r"/v1/(chat/completions|completions|responses)/?")
"""Routes that change nothing and may stream: a repetition asks the model again, and no answer is stored."""

T = TypeVar("T")

log = structlog.get_logger(__name__)


class AnswerNotKept(GrouptuneError):
    """The first request succeeded; its secret is shown only once. List the keys; rotate the new one if it is lost."""

    status = 409
    type = "invalid_request_error"
    code = "answer_not_kept"


class Idempotency:
    """ASGI middleware. It must run inside `BodyLimit`, because it holds JSON bodies in memory."""

    def __init__(self, app: ASGIApp, database: Database) -> None:
        self._app = app
        self._database = database
        self._settling: set[asyncio.Task[None]] = set()
        """Outcomes to store once Postgres is available."""
        self._awaited: dict[int, asyncio.Task[StoredResponse | RequestRunning | None]] = {}
        """By the row of a request that runs: all its repetitions share the queries."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or INFERENCE.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        key = headers.get("idempotency-key") or headers.get("x-idempotency-key")
        multipart = headers.get("content-type", "").startswith("multipart/")
        secret = SECRET.fullmatch(scope["path"]) is not None
        count = headers.get("x-stainless-retry-count", "")
        # Without a key only JSON requests of OpenAI's SDK are tracked; it sends a retry count. Uploads are too large to
        # compare, and a response with a secret could not be returned again anyway.
        if key is None and (multipart or secret or not re.fullmatch(r"\d{1,3}", count)):
            await self._app(scope, receive, send)
            return
        if key is not None and not 0 < len(key) <= MAX_KEY:
            error = InvalidRequest(f"The Idempotency-Key must have 1 to {MAX_KEY} characters.", param="Idempotency-Key")
            await respond(error)(scope, receive, send)
            return
        body = headers.get("content-length", "").encode()
        if not multipart:
            body = await _read_body(receive)
            receive = _replay_body(body, receive)
        fingerprint = hashlib.sha256(b"\0".join((scope["path"].encode(), scope["query_string"], body))).digest()
        await self._once(
            _PostRequest(key_of(headers) or "", key, fingerprint, int(count or 0), secret), scope, receive, send
        )

    async def _once(self, request: "_PostRequest", scope: Scope, receive: Receive, send: Send) -> None:
        try:
            found = await self._find(request)
        except AuthenticationFailed:  # the route's own check says what is wrong with the key
            await self._app(scope, receive, send)
            return
        except GrouptuneError as error:
            await respond(error)(scope, receive, send)
            return
        if isinstance(found, StoredResponse):
            await _replay(found)(scope, receive, send)
            return
        renewing = asyncio.create_task(self._renew(found.row_id))
        effects.running.set(found)
        try:
            await self._run(found.row_id, request, scope, receive, send)
        finally:
            renewing.cancel()

    async def _find(self, request: "_PostRequest") -> StoredResponse | Reservation:
        """Return the first request's response, waiting for it if necessary, or a reservation to run this one.

        Raises `RequestInProgress` after `WAIT_SECONDS`, and as `idempotency.look_up`.
        """
        until = time.monotonic() + WAIT_SECONDS
        look_up = partial(
            idempotency.look_up,
            token=request.token,
            key=request.key,
            fingerprint=request.fingerprint,
            attempt=request.attempt,
        )
        found = await self._reserve(look_up)
        while isinstance(found, RequestRunning):
            row_id = found.row_id
            if row_id not in self._awaited:
                self._awaited[row_id] = asyncio.create_task(self._await_response(row_id))
            done, _ = await asyncio.wait({self._awaited[row_id]}, timeout=until - time.monotonic())
            if not done:
                raise RequestInProgress
            current = done.pop().result()
            # The row disappears when the first request fails. Then this one looks up again: of all repetitions that
            # wait, one gets the reservation and runs; the others wait for that one.
            found = await self._reserve(look_up) if current is None else current
        return found

    async def _reserve(self, look_up: Callable[..., LookupResult]) -> LookupResult:
        """Look up or reserve the request. If Postgres is lost, the reservation is withdrawn once it is available."""
        reserved: list[Reservation] = []

        def work(session: Any) -> LookupResult:
            found = look_up(session)
            if isinstance(found, Reservation):
                reserved.append(found)
            return found

        try:
            return await self._transaction(work)
        except DatabaseUnavailable:
            for reservation in reserved:
                self._settle_in_background(partial(idempotency.withdraw, reservation=reservation))
            raise

    async def _await_response(self, row_id: int) -> StoredResponse | RequestRunning | None:
        """Poll until the request has ended, for `WAIT_SECONDS` at most."""
        until, pause = time.monotonic() + WAIT_SECONDS, FIRST_POLL_SECONDS
        try:
            while True:
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter, not a secret
                pause = min(2 * pause, LAST_POLL_SECONDS)
                current = await self._transaction(partial(idempotency.find_response, row_id=row_id))
                if not isinstance(current, RequestRunning) or time.monotonic() > until:
                    return current
        finally:
            del self._awaited[row_id]

    async def _renew(self, row_id: int) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            with suppress(DatabaseUnavailable):
                await self._transaction(partial(idempotency.renew, row_id=row_id))

    async def _run(self, row_id: int, request: "_PostRequest", scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request and send its response once that is stored.

        In the other order, a process that dies in between would leave a request that succeeded without a stored
        response, and a repetition would run it a second time.
        """
        start: Message = {}
        body = bytearray()
        settled = False

        async def store_and_send(message: Message) -> None:
            nonlocal start, settled
            if message["type"] == "http.response.start":
                start = message
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            settled = True
            if 200 <= start["status"] < 300:
                response = StoredResponse(start["status"], None if request.secret else bytes(body))
                await self._settle(partial(idempotency.store_response, row_id=row_id, response=response))
            else:  # a failed request leaves no row, so that a repetition runs
                await self._settle(partial(idempotency.release, row_id=row_id))
            await send(start)
            await send({"type": "http.response.body", "body": bytes(body)})

        try:
            await self._app(scope, receive, store_and_send)
        finally:
            if not settled:  # the handler raised, or the client went away
                await self._settle(partial(idempotency.release, row_id=row_id))

    async def _settle(self, work: Callable[..., None]) -> None:
        """Store the outcome of the request, or as soon as Postgres is available: the request itself is done.

        Until then a repetition finds a request that seems to run, and waits.
        """
        try:
            await self._transaction(work)
        except DatabaseUnavailable as error:
            log.warning("idempotency.not_settled", error=error.message)
            self._settle_in_background(work)

    def _settle_in_background(self, work: Callable[..., None]) -> None:
        task = asyncio.create_task(self._settle_later(work), name="idempotency")
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle_later(self, work: Callable[..., None]) -> None:
        def is_away(error: Exception) -> bool:
            return isinstance(error, DatabaseUnavailable)

        with suppress(DatabaseUnavailable):  # the record has expired by then
            await retry_async(partial(self._transaction, work), SETTLE_POLICY, is_retryable=is_away)

    async def _transaction(self, work: Callable[..., T]) -> T:
        def once() -> T:
            with self._database.transaction() as session:
                return work(session)

        return await run_in_threadpool(once)


@dataclass(frozen=True)
class _PostRequest:
    """The fields that identify a request."""

    token: str
    """The text of the API key."""
    key: str | None
    """The `Idempotency-Key`."""
    fingerprint: bytes
    """SHA-256 of path, query and body."""
    attempt: int
    """The SDK's retry count; 0 for the first request."""
    secret: bool
    """Whether its response shows a secret."""


def _replay(response: StoredResponse) -> Response:
    if response.body is None:
        return respond(AnswerNotKept(param="Idempotency-Key"), {"x-should-retry": "false"})
    return Response(response.body, response.status, {"idempotent-replayed": "true"}, "application/json")


async def _read_body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields the whole body first, then whatever the server sends (a disconnect)."""
    replayed = False

    async def replay() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
