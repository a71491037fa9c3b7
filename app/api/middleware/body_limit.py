"""Limits request bodies by the bytes and the members of JSON objects that arrive.

The header `content-length` may be wrong or absent.
"""

import re
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import respond
from app.core.errors import GrouptuneError, InvalidRequest, PayloadTooLarge, RateLimited
from app.core.files.chunked_uploads import MAX_PART_BYTES

JSON_BYTES: Final = 8 * 1024**2
"""Enough for any job, including graders with source code, and for long chats."""
PUBLIC_BYTES: Final = 64 * 1024
"""For routes that need no key."""
HELD_BYTES: Final = 32 * 1024**2
"""Size of the JSON bodies that one project may have in progress. A parsed body takes several times its size."""
FILES_AT_ONCE: Final = 8
"""Files of the largest size that one project may upload at the same time. They are on this machine's disk until they
are stored, and count towards `stored_bytes` only then."""
MAX_MEMBERS: Final = 20_000
"""Members of all objects of a JSON body together. Each unknown one would become an error of its own."""
FORM_OVERHEAD_BYTES: Final = 64 * 1024
"""For the boundaries and small fields around a file."""
UPLOAD_PATH: Final = "/v1/files"
PART_PATH: Final = re.compile(r"/v1/uploads/[^/]+/parts")
_MEMBER: Final = re.compile(rb'"\s*:')
"""The end of a member's name, unless the quote is escaped, as inside a text. A test for that here takes 40 times as
long, because each byte could then begin a match."""


class TooManyBytesInProgress(RateLimited):
    """The requests of this project in progress have too large bodies together. Send fewer large ones at once."""

    code = "too_many_bytes_in_progress"


class _Exceeded(Exception):
    """Unwinds the handler. The client never sees it."""


class BodyLimit:
    """ASGI middleware: 413 past `max_file_bytes` for files, `MAX_PART_BYTES` for parts, `PUBLIC_BYTES` for `public`
    paths and `JSON_BYTES` for the rest; 400 past `MAX_MEMBERS`; 429 past `HELD_BYTES` of JSON in progress, and past
    `FILES_AT_ONCE` uploads or the project's quota.

    It must run inside `CallerFirst`, which finds out whose body it is."""

    def __init__(self, app: ASGIApp, max_file_bytes: int, public: Collection[str]) -> None:
        self._app = app
        self._max_upload = max_file_bytes + FORM_OVERHEAD_BYTES
        self._public = frozenset(public)
        # Bytes by project, from the moment when a request announces them.
        self._json: Counter[str] = Counter()
        self._uploads: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit, max_members, advice = self._limit(scope["path"].rstrip("/"))
        held = None
        if (caller := scope.get("state", {}).get("principal")) is not None:
            if max_members is not None:
                held = _Held(self._json, caller.project_id, HELD_BYTES)
            else:
                at_once = min(FILES_AT_ONCE * self._max_upload, caller.limits.stored_bytes)
                held = _Held(self._uploads, caller.project_id, max(limit, at_once))
        body = _Body(scope["path"], limit, max_members, advice, held)
        try:
            await self._pass_on(body, scope, receive, send)
        finally:
            body.forget()

    async def _pass_on(self, body: "_Body", scope: Scope, receive: Receive, send: Send) -> None:
        body.check(_declared(scope), 0)

        async def bounded_receive() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                body.add(message.get("body", b""))
            return message

        async def guarded_send(message: Message) -> None:
            if body.problem is None:  # otherwise the framework's response to `_Exceeded` would precede ours
                await send(message)

        if body.problem is None:
            with suppress(_Exceeded):
                await self._app(scope, bounded_receive, guarded_send)
        if body.problem is not None:
            # Handlers send nothing before they have read the body. The server discards the rest of the body by itself.
            await respond(body.problem)(scope, receive, send)

    def _limit(self, path: str) -> tuple[int, int | None, str]:
        """Return the maximum number of bytes and of members of a body, and advice for larger ones."""
        if path == UPLOAD_PATH:
            advice = "split it, upload it in parts (/v1/uploads), or raise GROUPTUNE_MAX_FILE_BYTES"
            return self._max_upload, None, advice
        if PART_PATH.fullmatch(path):
            return MAX_PART_BYTES + FORM_OVERHEAD_BYTES, None, "send smaller parts"
        return PUBLIC_BYTES if path in self._public else JSON_BYTES, MAX_MEMBERS, "shorten it"


class _Held:
    """The share of one body in the bytes that its project has in progress."""

    def __init__(self, by_project: Counter[str], project: str, limit: int) -> None:
        self.limit = limit
        self._by_project, self._project = by_project, project
        self._own = 0

    def grow_to(self, size: int) -> bool:
        """Count the body with at least `size` bytes; return False, and change nothing, if they are too many."""
        more = size - self._own
        if more <= 0:
            return True
        if self._by_project[self._project] + more > self.limit:
            return False
        self._by_project[self._project] += more
        self._own = size
        return True

    def release(self) -> None:
        """Stop counting the body: its request has ended."""
        if self._own:
            self._by_project[self._project] -= self._own
            if not self._by_project[self._project]:
                del self._by_project[self._project]


class _Body:
    """Counts what has arrived of one body."""

    def __init__(self, path: str, limit: int, max_members: int | None, advice: str, held: _Held | None) -> None:
        """`held` is None for a caller without a key."""
        self.problem: GrouptuneError | None = None
        self._held = held
        self._path, self._limit, self._max_members, self._advice = path, limit, max_members, advice
        self._received = self._members = 0

    def add(self, chunk: bytes) -> None:
        """Count a chunk. Raises `_Exceeded` past a limit."""
        self._received += len(chunk)
        if self._max_members is not None:
            self._members += sum(chunk[at.start() - 1 : at.start()] != b"\\" for at in _MEMBER.finditer(chunk))
        self.check(self._received, self._members)
        if self.problem is not None:
            raise _Exceeded

    def check(self, received: int, members: int) -> None:
        """Set `problem` past a limit. `received` bytes have arrived or are announced."""
        if received > self._limit:
            self.problem = PayloadTooLarge(
                f"The request body is larger than the {self._limit:,} bytes that {self._path} accepts; {self._advice}."
            )
        elif self._max_members is not None and members > self._max_members:
            self.problem = InvalidRequest(
                f"The request body has more than {self._max_members:,} object members in all; {self._advice}.",
                code="too_many_members",
            )
        elif self._held is not None and not self._held.grow_to(received):
            self.problem = TooManyBytesInProgress(
                f"This project's requests in progress have bodies of more than {self._held.limit:,} bytes together. "
                "Send fewer large ones at once."
            )

    def forget(self) -> None:
        """Stop counting the body: its request has ended."""
        if self._held is not None:
            self._held.release()


def _declared(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
