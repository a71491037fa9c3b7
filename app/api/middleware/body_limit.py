"""Limits request bodies by the bytes that actually arrive: `content-length` may be wrong or absent."""

import re
from contextlib import suppress
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import respond
from app.core.errors import PayloadTooLarge
from app.core.files.chunked_uploads import MAX_PART_BYTES

JSON_BYTES: Final = 8 * 1024**2
"""Enough for any job, including graders with source code."""
FORM_OVERHEAD_BYTES: Final = 64 * 1024
"""For the boundaries and small fields around a file."""
UPLOAD_PATH: Final = "/v1/files"
PART_PATH: Final = re.compile(r"/v1/uploads/[^/]+/parts")


class _Exceeded(Exception):
    """Unwinds the handler. The client never sees it."""


class BodyLimit:
    """ASGI middleware: 413 past `max_file_bytes` for files, `MAX_PART_BYTES` for parts, `JSON_BYTES` for the rest."""

    def __init__(self, app: ASGIApp, max_file_bytes: int) -> None:
        self._app = app
        self._max_upload = max_file_bytes + FORM_OVERHEAD_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit, advice = self._limit(scope["path"].rstrip("/"))
        received = 0
        exceeded = _declared(scope) > limit

        async def bounded_receive() -> Message:
            nonlocal received, exceeded
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > limit:
                    exceeded = True
                    raise _Exceeded
            return message

        async def guarded_send(message: Message) -> None:
            if not exceeded:  # otherwise the framework's response to `_Exceeded` would precede ours
                await send(message)

        if not exceeded:
            with suppress(_Exceeded):
                await self._app(scope, bounded_receive, guarded_send)
        if exceeded:
            # Handlers send nothing before they have read the body. The server discards the rest of the body by itself.
            error = PayloadTooLarge(
                f"The request body is larger than the {limit:,} bytes that {scope['path']} accepts; {advice}."
            )
            await respond(error)(scope, receive, send)

    def _limit(self, path: str) -> tuple[int, str]:
        """Return the maximum number of bytes of a body, and advice for larger ones."""
        if path == UPLOAD_PATH:
            return self._max_upload, "split it, upload it in parts (/v1/uploads), or raise GROUPTUNE_MAX_FILE_BYTES"
        if PART_PATH.fullmatch(path):
            return MAX_PART_BYTES + FORM_OVERHEAD_BYTES, "send smaller parts"
        return JSON_BYTES, "shorten it"


def _declared(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
