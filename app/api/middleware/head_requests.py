"""Answers HEAD as GET, without the body."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadRequests:
    """ASGI middleware: runs a HEAD request as GET and sends only the head of the response.

    For the application, the client then hangs up, which ends a stream. It must run outside everything that looks at
    the method.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        has_received, is_sent = False, asyncio.Event()

        async def receive_request() -> Message:
            nonlocal has_received
            if not has_received:
                has_received = True
                return await receive()
            await is_sent.wait()
            return {"type": "http.disconnect"}

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body"})
                is_sent.set()

        await self._app({**scope, "method": "GET"}, receive_request, send_head)
