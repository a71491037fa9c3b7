"""The HTTP client for all URLs that clients choose: webhooks, teachers, judges, reward endpoints.

It prevents server-side request forgery. A host is resolved once, each of its addresses is checked, and the connection
goes to a checked address, so that DNS cannot return another address in between. TLS still verifies the name. No
redirects, no cookies, no proxies from the environment, `https` only (except for hosts that the operator allows), and
limits on time and size.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Final, Self
from weakref import WeakSet

import httpcore
import httpx

from app.core.deadline import Deadline
from app.core.egress.ip_policy import Address, PrivateHosts, is_local_name, literal, why_refused
from app.core.errors import GrouptuneError, InvalidRequest

MAX_URL: Final = 2048
MAX_PORT: Final = 65_535
_PORTS: Final = {"http": 80, "https": 443}
CONNECT_SECONDS: Final = 10.0
"""Limit of opening a connection to one address; nothing can interrupt that."""
USER_AGENT: Final = "grouptune"

Resolve = Callable[[str, int], list[str]]
"""Host and port -> addresses of the host. Raises `OSError`."""
Connect = Callable[[str, int, float | None], httpcore.NetworkStream]
"""Address, port and timeout in seconds -> an open connection. Raises `httpcore.ConnectError` and `ConnectTimeout`."""


class AddressRefused(InvalidRequest):
    """Requests to this address are not allowed."""

    code = "address_not_allowed"


class EgressFailed(GrouptuneError):
    """The other server could not be reached, or did not respond in time. A retry may help."""

    code = "no_answer"


class ResponseTooLarge(EgressFailed):
    """The other server's response is larger than the limit. A retry does not help."""

    code = "answer_too_large"


@dataclass(frozen=True)
class EgressResponse:
    """The response of the other server. A redirect is returned, not followed."""

    status: int
    headers: Mapping[str, str]
    """Names are case-insensitive."""
    body: bytes


@dataclass(frozen=True)
class _Call:
    deadline: float
    """Monotonic time at which the request must be complete."""
    is_plain: bool
    until: Deadline
    """The caller's deadline; it can be brought forward."""

    def left(self, timeout: float | None = None) -> float:
        left = self.until.left(self.deadline - time.monotonic())
        if left <= 0:
            raise httpcore.ReadTimeout("the time limit for the whole request has passed")
        return left if timeout is None else min(left, timeout)


_call: ContextVar[_Call] = ContextVar("call")
"""This thread's request. The connections read it: httpx' own timeouts limit each read, not the whole request."""


def system_resolve(host: str, port: int) -> list[str]:
    """Resolve a host with the system's resolver; each address once."""
    results = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(result[4][0]) for result in results))


def dial(address: str, port: int, timeout: float | None) -> httpcore.NetworkStream:
    """Open a TCP connection."""
    return httpcore.SyncBackend().connect_tcp(address, port, timeout)


def check_url(url: str, allowed: PrivateHosts, param: str | None = None) -> httpx.URL:
    """Check a URL without resolving its host, to refuse a bad one when the client sends it; return the parsed URL.

    Raises `AddressRefused`, with `param` as the field to change.
    """

    try:
        parsed = _parse(url)
        if reason := _why_refused(parsed, allowed):
            raise ValueError(f"{reason}. Only the operator can allow it: {_cure(parsed.host, parsed.port)}")
    except ValueError as error:
        raise AddressRefused(f"The URL {error}.", param=param) from error
    return parsed


def _parse(url: str) -> httpx.URL:
    """Raises `ValueError` for a URL that cannot be requested from any host."""
    try:
        parsed = httpx.URL(url) if len(url) <= MAX_URL else None
    except httpx.InvalidURL as error:
        raise ValueError(f"cannot be read ({error})") from error
    if parsed is None:
        raise ValueError(f"has more than {MAX_URL} characters")
    if parsed.port is not None and not 0 < parsed.port <= MAX_PORT:
        raise ValueError(f"cannot be read (its port {parsed.port} is not between 1 and {MAX_PORT})")
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ValueError("must begin with https:// and name a host")
    if parsed.userinfo or parsed.fragment:
        raise ValueError("must have neither a user and password nor a fragment (#...)")
    return parsed


def _why_refused(url: httpx.URL, allowed: PrivateHosts) -> str | None:
    """Return why the host may not be requested; None if it may, as far as that is known without resolving its name."""
    address, port = literal(url.host), url.port or _PORTS[url.scheme]
    if allowed.name_is_allowed(url.host, port) or (address is not None and allowed.address_is_allowed(address, port)):
        return None
    if address is not None and (reason := why_refused(address)):
        return f"names {reason}, {url.host}"
    if address is None and allowed.has_addresses:
        return None  # the name may resolve to an address that the operator allows; checked at the time of the request
    if address is None and is_local_name(url.host):
        return f"names this machine or its network, {url.host}"
    return None if url.scheme == "https" else f"must begin with https://, unless {url.host} is the operator's own"


def _cure(host: str, port: int | None) -> str:
    """Return the setting that allows a host; `port` None: the URL names none."""
    entry = host if port is None else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    setting = f"GROUPTUNE_ALLOWED_PRIVATE_HOSTS={entry}"
    return f"{setting} for the API and the workers, as in `{setting} grouptune up` (commas separate several hosts)"


class Egress:
    """A pool of checked connections, for any number of threads. A context manager."""

    def __init__(
        self,
        allowed: PrivateHosts | None = None,
        *,
        resolve: Resolve = system_resolve,
        connect: Connect = dial,
        ssl_context: ssl.SSLContext | None = None,
        max_connections: int = 10,
    ) -> None:
        """`allowed` comes from the operator's settings, never from clients."""
        self.allowed = allowed or PrivateHosts()
        context = ssl_context or httpx.create_ssl_context()  # certifi's roots, or those of SSL_CERT_FILE
        self._transport = httpx.HTTPTransport(verify=context, trust_env=False)
        # Replace the pool: httpx offers no parameter for the backend that opens the connections.
        self._backend = _PinnedBackend(self.allowed, resolve, connect)
        self._transport._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=max_connections,
            max_keepalive_connections=max_connections,
            keepalive_expiry=30.0,
            network_backend=self._backend,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Requests that still run fail with `EgressFailed`."""
        self._transport.close()
        self._backend.close()

    def request(
        self,
        method: str,
        url: str,
        *,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float,
        max_bytes: int,
        cut: bool = False,
        deadline: Deadline | None = None,
    ) -> EgressResponse:
        """Send one request; return the whole response, whatever its status.

        `timeout_seconds` covers everything from name resolution to the last byte; `deadline` may end the request
        earlier. A response of more than `max_bytes` is an error; with `cut` its first `max_bytes` are returned. Raises
        `AddressRefused`, `EgressFailed` and its `ResponseTooLarge`.
        """
        parsed = check_url(url, self.allowed)
        until = deadline or Deadline()
        timeout_seconds = until.left(timeout_seconds)
        own = {"user-agent": USER_AGENT, "accept-encoding": "identity"}
        request = httpx.Request(
            method,
            parsed,
            headers={**own, **(headers or {})},
            content=content,
            extensions={"timeout": httpx.Timeout(timeout_seconds).as_dict()},
        )
        token = _call.set(_Call(time.monotonic() + timeout_seconds, parsed.scheme == "http", until))
        try:
            response = self._transport.handle_request(request)
            try:
                return _read(response, max_bytes, cut=cut)
            finally:
                response.close()
        except httpx.TimeoutException as error:
            raise EgressFailed(f"{parsed.host} did not answer within {timeout_seconds:g} s") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise EgressFailed(f"{parsed.host} cannot be reached: {error or type(error).__name__}") from error
        finally:
            _call.reset(token)


def _read(response: httpx.Response, max_bytes: int, *, cut: bool) -> EgressResponse:
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > max_bytes:
            if not cut:
                raise ResponseTooLarge(f"The response has more than {max_bytes} bytes.")
            return EgressResponse(response.status_code, response.headers, bytes(body[:max_bytes]))
    if not cut and response.headers.get("content-encoding", "identity") != "identity":
        raise EgressFailed("The response is compressed, although the request accepts only `identity`.")
    return EgressResponse(response.status_code, response.headers, bytes(body))


class _PinnedBackend(httpcore.NetworkBackend):
    """Opens the pool's connections, only to checked addresses."""

    def __init__(self, allowed: PrivateHosts, resolve: Resolve, connect: Connect) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._connect = connect
        self._lock = threading.Lock()
        self._open: WeakSet[_TimedStream] | None = WeakSet()
        """The open connections; None once the client is closed."""

    def close(self) -> None:
        """Close all connections, also those that a request is just opening, which the pool does not know yet."""
        with self._lock:
            opened, self._open = self._open, None
        for stream in opened or ():
            stream.close()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        call = _call.get()
        failure: httpcore.NetworkError | httpcore.TimeoutException = httpcore.ConnectError("it has no address")
        for address in self._addresses(host, port, call):
            try:
                stream = self._connect(address, port, min(CONNECT_SECONDS, call.left(timeout)))
                return self._kept(_TimedStream(stream))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def _kept(self, stream: "_TimedStream") -> httpcore.NetworkStream:
        with self._lock:
            if self._open is not None:
                self._open.add(stream)
                return stream
        stream.close()
        raise httpcore.ConnectError("the client was closed")

    def _addresses(self, host: str, port: int, call: _Call) -> list[str]:
        """Resolve the host. Raises `AddressRefused` if any of its addresses is not allowed."""
        try:
            addresses = _within(call.left(), lambda: self._resolve(host, port))
        except TimeoutError as error:
            raise httpcore.ConnectTimeout("its name was not resolved in time") from error
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"its name was not resolved ({error})") from error
        for text in addresses:
            self._check(host, ip_address(text), port, call)
        return addresses

    def _check(self, host: str, address: Address, port: int, call: _Call) -> None:
        if self._allowed.name_is_allowed(host, port) or self._allowed.address_is_allowed(address, port):
            return
        if reason := why_refused(address):
            raise AddressRefused(f"{host} is {reason}, {address}. Only the operator can allow it: {_cure(host, port)}.")
        if call.is_plain:
            raise AddressRefused(
                f"{host} is reached through https:// only. Only the operator can allow http: {_cure(host, port)}."
            )


class _TimedStream(httpcore.NetworkStream):
    """A connection whose reads and writes end at the deadline of the request, however slowly the bytes arrive.

    A deadline that is brought forward interrupts a read: the other server may take minutes to answer.
    """

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner
        self._is_closed = False

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        call = _call.get()
        with call.until.interrupting(self._shut_down):
            return self._inner.read(max_bytes, call.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _call.get().left(timeout))

    def close(self) -> None:
        self._is_closed = True
        self._inner.close()

    def _shut_down(self) -> None:
        connection = self._inner.get_extra_info("socket")
        with suppress(OSError):  # the other side may have closed it
            socket.socket.shutdown(connection, socket.SHUT_RDWR)  # not SSLSocket's, which the reading thread is using

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        self._inner = self._inner.start_tls(ssl_context, server_hostname, _call.get().left(timeout))
        if self._is_closed:  # during the handshake
            self._inner.close()
            raise httpcore.ConnectError("the client was closed")
        return self

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _within(seconds: float, work: Callable[[], list[str]]) -> list[str]:
    """Run `work` in a thread with a time limit: the system's resolver has no timeout parameter.

    Raises `TimeoutError`. The thread is abandoned then.
    """
    future: Future[list[str]] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="resolve", daemon=True).start()
    return future.result(seconds)
