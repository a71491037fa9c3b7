"""Responses that stream server-sent events for as long as their caller may read them."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any, Final

from anyio import CancelScope
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.errors import envelope
from app.auth.bearer import identify
from app.core.errors import AuthenticationFailed, DatabaseUnavailable

CHECK_SECONDS: Final = 2.0
"""A stream ends at most this long, and the second for which keys are cached, after its key or session has ended."""
STREAM_HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}
STREAM_CONTENT: Final[dict[str, Any]] = {"text/event-stream": {}}
"""The documented content of a stream, without a schema: some tools apply it to the body, others to each event."""
EVENT_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": STREAM_CONTENT, "description": "Server-sent events."}
}
"""The documented response of a route that returns `event_stream`."""


class EventStreamResponse(StreamingResponse):
    """Sends `content`, and closes `source` when the response ends, also if the client hangs up before it begins."""

    def __init__(self, content: AsyncGenerator[str], source: AsyncGenerator[str]) -> None:
        super().__init__(content, media_type="text/event-stream", headers=STREAM_HEADERS)
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._source):
            await super().__call__(scope, receive, send)


def event_stream(request: Request, messages: AsyncGenerator[str]) -> StreamingResponse:
    """Return a response that streams `messages` until they end, or until the caller's key or session is invalid.

    Then the last message is `revoked`, with the same data as the body of an error response.
    """
    allowed = while_allowed(request, messages)
    return EventStreamResponse(_until_revoked(allowed), allowed)


async def _until_revoked(messages: AsyncGenerator[str]) -> AsyncGenerator[str]:
    try:
        async for message in messages:
            yield message
    except AuthenticationFailed as error:
        yield f"event: revoked\ndata: {envelope(error)}\n\n"


async def while_allowed(request: Request, messages: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """Yield the messages, and close them at the end, also if it comes early.

    Raises `AuthenticationFailed` at most `CHECK_SECONDS` after the caller's key or session has become invalid.
    """
    following: asyncio.Future[str] | None = None
    checked_at = time.monotonic()
    try:
        while True:
            if following is None:
                following = asyncio.ensure_future(anext(messages))
            wait = max(0.0, checked_at + CHECK_SECONDS - time.monotonic())
            await asyncio.wait({following}, timeout=wait)
            if time.monotonic() - checked_at >= CHECK_SECONDS:
                # Before the next message is sent: what was written after the revocation must not get out.
                await _check(request)
                checked_at = time.monotonic()
            if following.done():
                message, following = following.result(), None
                yield message
    except StopAsyncIteration:
        return
    finally:
        # When a client hangs up, Starlette's task group cancels each `await` of its task until the task ends. Without a
        # shield this would interrupt the cleanup of `messages`, such as the closing of a connection to an engine.
        with CancelScope(shield=True):
            if following is not None and following.cancel():
                with suppress(asyncio.CancelledError, StopAsyncIteration):
                    await following
            await messages.aclose()


async def _check(request: Request) -> None:
    with suppress(DatabaseUnavailable):  # the next check decides
        await identify(request)
