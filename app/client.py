"""Thin HTTP client of the public API: errors as exceptions, streamed uploads, pages. Knows no terminal."""

import io
import ipaddress
import json
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, NamedTuple, Self
from urllib.parse import quote

import httpx

from app.core.errors import GrouptuneError

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 60.0
PAGE_SIZE: Final = 100

Json = dict[str, Any]
_OUR_ENUMS: Final = {"x-grouptune-strict-enums": "false"}
"""Whatever the project says: `paused` is a status that commands know."""


class ServerUnreachable(GrouptuneError):
    """The server cannot be reached, or something other than it answers under its address."""

    code = "server_unreachable"
    is_temporary: ClassVar[bool] = True
    """Whether it may be reached later."""


class BadAddress(ServerUnreachable):
    """The server's address is none."""

    is_temporary = False


class ApiError(GrouptuneError):
    """The server refused a request; `http_status`, `code` and `param` are those of its answer."""

    def __init__(self, message: str, *, http_status: int, param: str | None = None, code: str | None = None) -> None:
        """`message` is the server's own, written for the person who must act."""
        super().__init__(message, param=param, code=code)
        self.http_status = http_status

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may succeed later."""
        return self.is_away or self.http_status == httpx.codes.TOO_MANY_REQUESTS

    @property
    def is_away(self) -> bool:
        """Whether the server, or its database, is away or restarts: so say proxies, and the server itself."""
        return self.http_status in (502, 503, 504)


class ServerSentEvent(NamedTuple):
    """One message of a stream. `name` is empty for a comment, which only says that the server is still there."""

    name: str
    data: Json
    id: str | None


class Client:
    """A connection to one server. All methods raise `ApiError` and `ServerUnreachable`."""

    def __init__(self, base_url: str, api_key: str | None) -> None:
        """`base_url` ends in `/v1`, as for an OpenAI client. Without a key it can get one (`/oidc/exchange`).

        Raises `BadAddress`.
        """
        self.base_url = base_url.rstrip("/")
        host = _host(base_url)
        self._http = httpx.Client(
            headers=_OUR_ENUMS | ({} if api_key is None else {"authorization": f"Bearer {api_key}"}),
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            # A proxy from the environment cannot reach a server on this machine.
            trust_env=not is_loopback(host),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def get(self, path: str, **params: str | int) -> Json:
        """The answer to GET; `path` begins with `/` and is relative to `base_url`."""
        return self._send("GET", path, params=params)

    def post(self, path: str, body: Json | None = None, *, idempotency_key: str | None = None) -> Json:
        """The answer to POST with a JSON body; with a key the same as before, if it was sent before."""
        return self._send("POST", path, json=body or {}, headers=_keyed(idempotency_key))

    def delete(self, path: str) -> Json:
        """The answer to DELETE."""
        return self._send("DELETE", path)

    def pages(self, path: str, *, limit: int | None = None, **params: str | int) -> Iterator[Json]:
        """The items of a list, page after page; `limit` ends it early."""
        left = limit
        while left is None or left > 0:
            size = PAGE_SIZE if left is None else min(left, PAGE_SIZE)
            page = self.get(path, limit=size, **params)
            yield from page["data"]
            if not page["has_more"] or not page["data"]:
                return
            left = None if left is None else left - len(page["data"])
            params["after"] = page["data"][-1]["id"]

    def upload(
        self,
        path: Path,
        *,
        purpose: str = "fine-tune",
        progress: Callable[[int], None] | None = None,
        idempotency_key: str | None = None,
    ) -> Json:
        """Streams a file to the server; `progress` gets the number of bytes of each piece sent.

        Raises `OSError` when the file cannot be read.
        """
        with _Counted(path, progress or (lambda _count: None)) as stream:
            upload = {"file": (path.name, stream, "application/octet-stream")}
            headers = _keyed(idempotency_key)
            return self._send("POST", "/files", data={"purpose": purpose}, files=upload, headers=headers)

    def download(self, path: str, target: Path) -> None:
        """Writes the answer to GET into the file `target`, piece by piece. Raises `OSError` when that fails."""
        try:
            with self._http.stream("GET", f"{self.base_url}{path}") as response, target.open("wb") as file:
                if response.is_success:
                    for piece in response.iter_bytes():
                        file.write(piece)
                    return
                response.read()
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        raise _refusal(response, _json(response), self.base_url)

    def stream(
        self, path: str, *, last_id: str | None, silence_seconds: float
    ) -> Generator[ServerSentEvent, None, None]:
        """The messages of a stream behind the one with `last_id`, until the server ends it.

        A longer silence than `silence_seconds` counts as an unreachable server; servers of ours break theirs every
        15 seconds. Close it (`contextlib.closing`) to leave early.
        """
        headers = {} if last_id is None else {"last-event-id": last_id}
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS, read=silence_seconds)
        try:
            with self._http.stream("GET", f"{self.base_url}{path}", headers=headers, timeout=timeout) as response:
                if response.headers.get("content-type", "").startswith("text/event-stream"):
                    yield from _messages(response.iter_bytes())
                    return
                response.read()
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        raise _refusal(response, _json(response), self.base_url)

    def _send(self, method: str, path: str, **content: Any) -> Json:
        try:
            response = self._http.request(method, f"{self.base_url}{path}", **content)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        except httpx.InvalidURL as error:
            raise BadAddress(f"{self.base_url}{path} is not an address: {error}") from error
        body = _json(response)
        if isinstance(body, dict) and response.is_success:
            return body
        raise _refusal(response, body, self.base_url)

    def _unreachable(self, error: httpx.TransportError) -> ServerUnreachable:
        return ServerUnreachable(f"{self.base_url} cannot be reached: {str(error) or type(error).__name__}")


class _Counted(io.FileIO):
    """A file that says how much of it was read."""

    def __init__(self, path: Path, progress: Callable[[int], None]) -> None:
        super().__init__(path, "rb")
        self._progress = progress

    def read(self, size: int | None = -1, /) -> bytes:
        chunk = super().read(-1 if size is None else size) or b""
        self._progress(len(chunk))
        return chunk


def _messages(pieces: Iterable[bytes]) -> Iterator[ServerSentEvent]:
    """Server-sent events as this server writes them: one line of JSON each, `\n` between lines.

    Not by `str.splitlines`, as httpx does: JSON may hold U+2028 and others that it takes for the end of a line.
    """
    fields: dict[str, str] = {}
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            name, _, value = line.decode().partition(": ")
            if line.startswith(b":"):
                yield ServerSentEvent("", {}, None)
            elif line:
                fields[name] = value
            elif fields:
                yield ServerSentEvent(fields.get("event", ""), json.loads(fields["data"]), fields.get("id"))
                fields = {}


def _keyed(idempotency_key: str | None) -> dict[str, str]:
    return {} if idempotency_key is None else {"idempotency-key": idempotency_key}


def path_segment(name: str) -> str:
    """A name as one segment of a path: model names hold `/` and `:`."""
    return quote(name, safe=":")


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _refusal(response: httpx.Response, body: Any, base_url: str) -> GrouptuneError:
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict) and "message" in error:
        return ApiError(
            str(error["message"]),
            http_status=response.status_code,
            param=error.get("param"),
            code=error.get("code"),
        )
    if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:  # a proxy in front of a server that is away
        message = f"{base_url} answered {response.status_code} {response.reason_phrase}"
        return ApiError(message, http_status=response.status_code, code="bad_gateway")
    return ServerUnreachable(f"{base_url} is no Grouptune server: it answered {response.status_code} without JSON")


def _host(base_url: str) -> str:
    try:
        parsed = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise BadAddress(f"{base_url!r} is not an address: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise BadAddress(f"{base_url!r} is not an address: write it as https://grouptune.example.com")
    return parsed.host


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
