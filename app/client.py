"""Thin HTTP client of the public API: errors as exceptions, streamed uploads, pagination. Prints nothing."""

import io
import ipaddress
import json
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ClassVar, Final, NamedTuple, Self
from urllib.parse import quote

import httpx

from app.core.errors import GrouptuneError

CONNECT_SECONDS: Final = 5.0
RESPONSE_SECONDS: Final = 60.0
PAGE_SIZE: Final = 100
NOT_FOUND: Final = int(httpx.codes.NOT_FOUND)
END_OF_STREAM: Final = "[DONE]"
"""The last message of a streamed answer, in place of JSON."""

Json = dict[str, Any]
_EXTENDED_ENUMS: Final = {"x-grouptune-strict-enums": "false"}
"""Overrides the project's setting, because the command line handles statuses such as `paused`."""


class ServerUnreachable(GrouptuneError):
    """The server cannot be reached, or something else answers at its address."""

    code = "server_unreachable"
    is_temporary: ClassVar[bool] = True
    """Whether a retry may succeed."""


class InvalidAddress(ServerUnreachable):
    """The server's address is not a valid URL."""

    is_temporary = False


class ApiError(GrouptuneError):
    """The server rejected a request; `http_status`, `type`, `code` and `param` come from its response."""

    def __init__(
        self,
        message: str,
        *,
        http_status: int,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        """`message` is the error message of the server."""
        super().__init__(message, param=param, code=code)
        self.http_status = http_status
        if type is not None:
            self.type = type

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may succeed later."""
        return self.is_unavailable or self.http_status == httpx.codes.TOO_MANY_REQUESTS

    @property
    def is_unavailable(self) -> bool:
        """Whether the server or its database is unavailable, as reported by the server or a proxy."""
        return self.http_status in (502, 503, 504)


class ServerSentEvent(NamedTuple):
    """One message of a stream. A heartbeat (a comment line) has an empty `name`."""

    name: str
    data: Json
    id: str | None


class Client:
    """HTTP client for one server. All methods raise `ApiError` and `ServerUnreachable`."""

    def __init__(self, base_url: str, api_key: str | None) -> None:
        """`base_url` ends in `/v1`, as for an OpenAI client. `api_key` None: only `/oidc/exchange` works.

        Raises `InvalidAddress`.
        """
        self.base_url = base_url.rstrip("/")
        host = _host(base_url)
        self._http = httpx.Client(
            headers=_EXTENDED_ENUMS | ({} if api_key is None else {"authorization": f"Bearer {api_key}"}),
            timeout=httpx.Timeout(RESPONSE_SECONDS, connect=CONNECT_SECONDS),
            # Ignore proxies from the environment for a server on this machine: they could not reach it.
            trust_env=not is_loopback(host),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, **params: str | int) -> Json:
        """Send GET and return the response; `path` starts with `/` and is relative to `base_url`."""
        return self._send("GET", path, params=params)

    def post(self, path: str, body: Json | None = None, *, idempotency_key: str | None = None) -> Json:
        """Send POST with a JSON body and return the response; repeating an `idempotency_key` returns the first one."""
        return self._send("POST", path, json=body or {}, headers=_keyed(idempotency_key))

    def delete(self, path: str) -> Json:
        """Send DELETE and return the response."""
        return self._send("DELETE", path)

    def pages(self, path: str, *, limit: int | None = None, **params: str | int) -> Iterator[Json]:
        """Yield the items of a list, page by page, at most `limit` of them."""
        remaining = limit
        while remaining is None or remaining > 0:
            size = PAGE_SIZE if remaining is None else min(remaining, PAGE_SIZE)
            page = self.get(path, limit=size, **params)
            yield from page["data"]
            if not page["has_more"] or not page["data"]:
                return
            remaining = None if remaining is None else remaining - len(page["data"])
            params["after"] = page["data"][-1]["id"]

    def upload(
        self,
        path: Path,
        *,
        purpose: str = "fine-tune",
        progress: Callable[[int], None] | None = None,
        idempotency_key: str | None = None,
    ) -> Json:
        """Stream a file to the server; `progress` gets the number of bytes of each chunk.

        Raises `OSError` if the file cannot be read.
        """
        with _ProgressFile(path, progress or (lambda _count: None)) as stream:
            upload = {"file": (path.name, stream, "application/octet-stream")}
            headers = _keyed(idempotency_key)
            return self._send("POST", "/files", data={"purpose": purpose}, files=upload, headers=headers)

    def download(self, path: str, target: Path, *, progress: Callable[[int], None] | None = None) -> None:
        """Stream the response to GET into the file `target`; `progress` gets the number of bytes of each chunk.

        A connection that breaks after some bytes is resumed if the server supports it. Raises `OSError` if writing
        fails.
        """
        etag: str | None = None
        with target.open("wb") as file:
            while True:
                start = file.tell()
                headers = {"range": f"bytes={start}-", "if-range": etag} if start and etag else {}
                try:
                    with self._http.stream("GET", f"{self.base_url}{path}", headers=headers) as response:
                        if response.is_success:
                            etag = response.headers.get("etag")
                            if response.status_code != httpx.codes.PARTIAL_CONTENT:
                                file.seek(0)
                            _write(response, file, progress or (lambda _count: None))
                            file.truncate()
                            return
                        response.read()
                except httpx.TransportError as error:
                    if etag is None or file.tell() == start:
                        raise self._unreachable(error) from error
                    continue
                raise _error_of(response, _json(response), self.base_url)

    def stream(
        self, path: str, *, last_id: str | None, silence_seconds: float
    ) -> Generator[ServerSentEvent, None, None]:
        """Yield the messages after the one with `last_id`, until the server ends the stream.

        A silence longer than `silence_seconds` raises `ServerUnreachable`; the server sends a heartbeat every 15
        seconds. To stop early, close the generator (`contextlib.closing`).
        """
        headers = {} if last_id is None else {"last-event-id": last_id}
        yield from self._events("GET", path, silence_seconds, headers=headers)

    def post_stream(self, path: str, body: Json, *, silence_seconds: float) -> Generator[Json, None, None]:
        """Send POST and yield the chunks of the streamed answer, as `stream` does; an error in the stream is raised."""
        for event in self._events("POST", path, silence_seconds, json=body):
            if "error" in event.data:
                error = event.data["error"]
                raise ApiError(
                    str(error["message"]),
                    http_status=httpx.codes.INTERNAL_SERVER_ERROR,
                    type=error.get("type"),
                    param=error.get("param"),
                    code=error.get("code"),
                )
            if event.data:
                yield event.data

    def _events(
        self, method: str, path: str, silence_seconds: float, **content: Any
    ) -> Generator[ServerSentEvent, None, None]:
        timeout = httpx.Timeout(RESPONSE_SECONDS, connect=CONNECT_SECONDS, read=silence_seconds)
        try:
            with self._http.stream(method, f"{self.base_url}{path}", timeout=timeout, **content) as response:
                if response.headers.get("content-type", "").startswith("text/event-stream"):
                    yield from _messages(response.iter_bytes())
                    return
                response.read()
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        raise _error_of(response, _json(response), self.base_url)

    def _send(self, method: str, path: str, **content: Any) -> Json:
        try:
            response = self._http.request(method, f"{self.base_url}{path}", **content)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        except httpx.InvalidURL as error:
            raise InvalidAddress(f"{self.base_url}{path} is not a valid URL: {error}") from error
        body = _json(response)
        if isinstance(body, dict) and response.is_success:
            return body
        raise _error_of(response, body, self.base_url)

    def _unreachable(self, error: httpx.TransportError) -> ServerUnreachable:
        return ServerUnreachable(f"{self.base_url} cannot be reached: {str(error) or type(error).__name__}")


class _ProgressFile(io.FileIO):
    """A file that reports how many bytes each read returned."""

    def __init__(self, path: Path, progress: Callable[[int], None]) -> None:
        super().__init__(path, "rb")
        self._progress = progress

    def read(self, size: int | None = -1, /) -> bytes:
        chunk = super().read(-1 if size is None else size) or b""
        self._progress(len(chunk))
        return chunk


def _write(response: httpx.Response, file: BinaryIO, progress: Callable[[int], None]) -> None:
    for chunk in response.iter_bytes():
        file.write(chunk)
        progress(len(chunk))


def _messages(chunks: Iterable[bytes]) -> Iterator[ServerSentEvent]:
    """Parse server-sent events in the form this server writes them: `data` is one line of JSON.

    Lines are split at `\n` only. `str.splitlines`, which httpx uses, also splits at U+2028 and other characters that
    may occur inside JSON strings.
    """
    fields: dict[str, str] = {}
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            name, _, value = line.decode().partition(": ")
            if line.startswith(b":"):
                yield ServerSentEvent("", {}, None)
            elif line:
                fields[name] = value
            elif fields.get("data") == END_OF_STREAM:
                return
            elif fields:  # an empty line ends a message
                yield ServerSentEvent(fields.get("event", ""), json.loads(fields["data"]), fields.get("id"))
                fields = {}


def _keyed(idempotency_key: str | None) -> dict[str, str]:
    return {} if idempotency_key is None else {"idempotency-key": idempotency_key}


def path_segment(name: str) -> str:
    """Quote a name as one segment of a path: model names contain `/` and `:`."""
    return quote(name, safe=":")


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _error_of(response: httpx.Response, body: Any, base_url: str) -> GrouptuneError:
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict) and "message" in error:
        return ApiError(
            str(error["message"]),
            http_status=response.status_code,
            type=error.get("type"),
            param=error.get("param"),
            code=error.get("code"),
        )
    if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:  # from a proxy in front of an unavailable server
        message = f"{base_url} answered {response.status_code} {response.reason_phrase}"
        return ApiError(message, http_status=response.status_code, code="bad_gateway")
    return ServerUnreachable(f"{base_url} is not a Grouptune server: it answered {response.status_code} without JSON")


def _host(base_url: str) -> str:
    try:
        parsed = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise InvalidAddress(f"{base_url!r} is not a valid URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidAddress(f"{base_url!r} is not a valid URL. Write it as https://grouptune.example.com.")
    return parsed.host


def is_loopback(host: str) -> bool:
    """Whether `host` is an address that only this machine can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
