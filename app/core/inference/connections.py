"""A transport of httpx whose requests may be cancelled at any time.

httpcore's pool keeps a connection forever if a request is cancelled at certain moments, such as the closing of its
response (https://github.com/encode/httpcore/issues/658 and 1093). Here each running request has a pool of its own with
one connection, which is dropped as a whole unless the response was read to its end.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import httpx


class CancellableTransport(httpx.AsyncBaseTransport):
    """Keeps the connections of complete requests for a while. Use it from one event loop."""

    def __init__(self, max_connections: int, idle_seconds: float) -> None:
        self._max_connections, self._idle_seconds = max_connections, idle_seconds
        self._ssl_context = httpx.create_ssl_context(trust_env=False)
        self._active = 0
        self._idle: deque[tuple[float, httpx.AsyncHTTPTransport]] = deque()
        """When each was used last, and the oldest first."""
        self._closing: set[asyncio.Task[None]] = set()
        """Also keeps these tasks alive: the event loop does not."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request. Raises `PoolTimeout` if too many are running."""
        if self._active >= self._max_connections:
            raise httpx.PoolTimeout(f"{self._active} requests are running", request=request)
        self._drop_idle(time.monotonic() - self._idle_seconds)
        inner = self._idle.pop()[1] if self._idle else self._new()
        self._active += 1
        try:
            response = await inner.handle_async_request(request)
        except BaseException:
            self._drop(inner)
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - for the type checker
        response.stream = _Stream(self, inner, response.stream)
        return response

    def _new(self) -> httpx.AsyncHTTPTransport:
        limits = httpx.Limits(max_connections=1, keepalive_expiry=self._idle_seconds)
        return httpx.AsyncHTTPTransport(verify=self._ssl_context, limits=limits, trust_env=False)

    async def release(self, inner: httpx.AsyncHTTPTransport, stream: httpx.AsyncByteStream, *, complete: bool) -> None:
        """End a request, also if the caller is cancelled."""
        if complete:
            await asyncio.shield(self._in_background(self._keep(inner, stream)))
        else:
            await asyncio.shield(self._drop(inner))

    async def _keep(self, inner: httpx.AsyncHTTPTransport, stream: httpx.AsyncByteStream) -> None:
        try:
            await stream.aclose()
        finally:
            self._active -= 1
            self._idle.append((time.monotonic(), inner))

    def _drop(self, inner: httpx.AsyncHTTPTransport) -> asyncio.Task[None]:
        self._active -= 1
        return self._in_background(inner.aclose())

    def _drop_idle(self, used_before: float) -> None:
        while self._idle and self._idle[0][0] < used_before:
            self._in_background(self._idle.popleft()[1].aclose())

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    async def aclose(self) -> None:
        """Close the idle connections."""
        self._drop_idle(float("inf"))
        await asyncio.gather(*self._closing)


class _Stream(httpx.AsyncByteStream):
    """The body of a response."""

    def __init__(
        self, transport: CancellableTransport, inner: httpx.AsyncHTTPTransport, stream: httpx.AsyncByteStream
    ) -> None:
        self._transport, self._inner, self._stream = transport, inner, stream
        self._is_complete = False
        self._is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part
        self._is_complete = True

    async def aclose(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            await self._transport.release(self._inner, self._stream, complete=self._is_complete)
