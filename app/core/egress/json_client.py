"""JSON requests to other servers (judges, reward servers, teachers), with retries.

The callers interpret the responses.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Self
from urllib.parse import urlsplit

from app.core.deadline import Deadline
from app.core.egress.client import Egress, EgressFailed, EgressResponse, ResponseTooLarge
from app.core.egress.ip_policy import PrivateHosts
from app.core.retry import RetryPolicy, is_retryable_status, retry, retry_after_seconds

MAX_RESPONSE_BYTES: Final = 4 * 1024**2
_SHOWN_BYTES: Final = 300
MIN_SECRET_LENGTH: Final = 8
"""Characters of a key. A shorter key may be part of any word, so it is not masked in responses."""


class NoUsableResponse(Exception):
    """A server sent no usable response; the message says what it did instead."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        is_retryable: bool = False,
        requested_wait_seconds: float = 0.0,
    ) -> None:
        """`status` is the HTTP status of the last response, None without one.

        `is_retryable`: a later attempt may succeed. `requested_wait_seconds` comes from the header `Retry-After`.
        """
        super().__init__(message)
        self.status = status
        self.is_retryable = is_retryable
        self.requested_wait_seconds = requested_wait_seconds


def request_with_retries(
    send: Callable[[], EgressResponse], server_name: str, deadline: Deadline, policy: RetryPolicy
) -> Any:
    """Return the JSON of a 2xx response. Other responses are retried where that may help, until the deadline.

    Raises `NoUsableResponse`, and whatever `send` raises except `EgressFailed`.
    """

    def attempt() -> Any:
        try:
            response = send()
        except ResponseTooLarge as error:
            raise NoUsableResponse(f"{server_name} failed: {error.message}") from error
        except EgressFailed as error:
            raise NoUsableResponse(f"{server_name} failed: {error.message}", is_retryable=True) from error
        if 200 <= response.status < 300:
            return _json(response, server_name)
        raise NoUsableResponse(
            f"{server_name} answered {response.status}: {_start(response)}",
            status=response.status,
            is_retryable=is_retryable_status(response.status),
            requested_wait_seconds=retry_after_seconds(response.headers),
        )

    return retry(
        attempt,
        policy,
        is_retryable=lambda error: isinstance(error, NoUsableResponse) and error.is_retryable,
        requested_seconds=lambda error: error.requested_wait_seconds if isinstance(error, NoUsableResponse) else 0.0,
        wait=deadline.wait,
    )


class ChatServer:
    """Client for an OpenAI-compatible server, for any number of threads. A context manager."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        allowed: PrivateHosts,
        *,
        server_name: str,
        retry_policy: RetryPolicy,
        timeout_seconds: float,
        max_connections: int,
    ) -> None:
        """`url` is the base URL, up to `/v1`; `server_name` names the server in errors ("the teacher")."""
        self.host = urlsplit(url).hostname or ""
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._headers = {"content-type": "application/json"} | (
            {"authorization": f"Bearer {api_key}"} if api_key else {}
        )
        self._key = (api_key or "").encode() if len(api_key or "") >= MIN_SECRET_LENGTH else b""
        self._server_name = server_name
        self._retry_policy = retry_policy
        self._timeout_seconds = timeout_seconds
        self._egress = Egress(allowed, max_connections=max_connections)
        self._closing = Deadline()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all requests, then close the connections."""
        self._closing.expire()
        self._egress.close()

    def complete(
        self,
        body: Mapping[str, Any],
        before_each: Callable[[], None] = lambda: None,
        *,
        deadline: Deadline | None = None,
    ) -> dict[str, Any]:
        """Return a chat completion. Calls `before_each` before every attempt. Without a deadline, only `close` ends it.

        Raises `NoUsableResponse` and `AddressRefused`.
        """
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        until = deadline or self._closing

        def send() -> EgressResponse:
            before_each()
            response = self._egress.request(
                "POST",
                self._url,
                content=content,
                headers=self._headers,
                timeout_seconds=self._timeout_seconds,
                max_bytes=MAX_RESPONSE_BYTES,
                deadline=until,
            )
            # A server may repeat the key that it was sent; mask it before it gets into events, logs and error messages.
            return replace(response, body=response.body.replace(self._key, b"[key]")) if self._key else response

        completion = request_with_retries(send, self._server_name, until, self._retry_policy)
        if not isinstance(completion, dict):
            raise NoUsableResponse(f"the response of {self._server_name} is not a JSON object")
        return completion


def _json(response: EgressResponse, server_name: str) -> Any:
    try:
        return json.loads(response.body)
    except (ValueError, RecursionError):
        raise NoUsableResponse(f"{server_name} did not answer with JSON: {_start(response)}") from None


def _start(response: EgressResponse) -> str:
    return response.body[:_SHOWN_BYTES].decode("utf-8", "replace")
