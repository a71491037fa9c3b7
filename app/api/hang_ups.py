"""Ends the work of requests whose client has closed the connection. A streamed response ends by itself."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from app.core.errors import InvalidRequest

T = TypeVar("T")


class ClientHungUp(InvalidRequest):
    """The client closed the connection before the response."""

    status = 499
    code = "client_closed_request"


async def until_hang_up(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`; if the client closes the connection first, cancel it and raise `ClientHungUp`.

    The body of the request must have been read. Raises as `work`.
    """
    working = asyncio.create_task(work)
    listening = asyncio.create_task(_hang_up(request))
    try:
        await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientHungUp
        return working.result()
    finally:
        working.cancel()
        listening.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
