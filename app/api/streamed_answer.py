"""Server-sent events of an answer that is being generated, in OpenAI's form."""

import json
from collections.abc import AsyncGenerator, Callable
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import Request

from app.api.event_streams import EventStreamResponse, while_allowed
from app.api.hang_ups import until_hang_up
from app.core.errors import GrouptuneError

log = structlog.get_logger(__name__)

DONE: Final = "data: [DONE]\n\n"


def event(data: dict[str, Any], name: str | None = None) -> str:
    """Return one message; `name` is its type, which clients of the Responses API read."""
    body = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\ndata: {body}\n\n" if name else f"data: {body}\n\n"


def error_event(error: GrouptuneError) -> str:
    """Return an error as a message: the response has begun, so its status cannot change any more."""
    return event({"error": error_body(error)})


def error_body(error: GrouptuneError) -> dict[str, Any]:
    """Return OpenAI's object for an error."""
    return {"message": error.message_for_clients, "type": error.type, "param": error.param, "code": error.code}


async def streamed(
    request: Request,
    messages: AsyncGenerator[str, None],
    write_error: Callable[[GrouptuneError], str] = error_event,
) -> EventStreamResponse:
    """Return a response that sends the messages. Waits for the first one, so that an error before it has its status.

    `write_error` returns the message for an error after the first one.

    Closes `messages` when the response ends, also if the client hangs up or its key becomes invalid.
    """
    messages = while_allowed(request, messages)
    first = await until_hang_up(request, _first(messages))
    return EventStreamResponse(_all(first, messages, write_error), messages)


async def _first(messages: AsyncGenerator[str, None]) -> str:
    return await anext(messages)


async def _all(
    first: str, messages: AsyncGenerator[str, None], write_error: Callable[[GrouptuneError], str]
) -> AsyncGenerator[str]:
    yield first
    try:
        async for message in messages:
            yield message
    except GrouptuneError as error:
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("stream.failed", code=error.code, message=error.message)
        yield write_error(error)
