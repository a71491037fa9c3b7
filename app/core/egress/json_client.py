"""Other servers that answer with JSON, asked patiently: again after a while where that may help.

For judges, reward servers and teachers; what an answer means is for them to say.
"""

import json
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Self
from urllib.parse import urlsplit

from app.core.egress.client import Answer, AnswerTooLarge, Egress, EgressFailed
from app.core.egress.ip_policy import PrivateHosts

MAX_ANSWER_BYTES: Final = 4 * 1024**2
_MAY_PASS: Final = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which trying again may help."""
_SHOWN: Final = 300
LEAST_SECRET: Final = 8
"""Characters of a key; a shorter one is no secret, and may be part of any word."""


class NoUsableAnswer(Exception):
    """A server was asked, and did not answer as it should; the message says what it did."""

    def __init__(self, message: str, *, status: int | None = None, may_pass: bool = False) -> None:
        """`status` is that of the last answer, None without one; `may_pass`: trying again later may help."""
        super().__init__(message)
        self.status = status
        self.may_pass = may_pass


@dataclass(frozen=True)
class Patience:
    """How often a request is tried, and how long a server may ask to wait."""

    attempts: int
    longest_wait_seconds: float


def ask(send: Callable[[], Answer], whom: str, closing: threading.Event, patience: Patience) -> Any:
    """The JSON of a 2xx answer; again after a while when trying again may help, and nobody closes.

    Raises `NoUsableAnswer`. `send` may raise what egress raises, and anything else to end the asking; `AddressRefused`
    ends it too.
    """
    failure = NoUsableAnswer(f"{whom} was not asked to the end", may_pass=True)
    asked_to_wait = 0.0
    for attempt in range(patience.attempts):
        if attempt:
            wait = random.uniform(0.5, 1) * 2 ** (attempt - 1)  # noqa: S311
            if closing.wait(max(min(wait, patience.longest_wait_seconds), asked_to_wait)):
                break
        try:
            answer = send()
        except AnswerTooLarge as error:
            raise NoUsableAnswer(f"{whom} failed: {error.message}") from error
        except EgressFailed as error:
            failure, asked_to_wait = NoUsableAnswer(f"{whom} failed: {error.message}", may_pass=True), 0.0
            continue
        if 200 <= answer.status < 300:
            return _json(answer, whom)
        passing = answer.status in _MAY_PASS or answer.status >= 500
        failure = NoUsableAnswer(
            f"{whom} answered {answer.status}: {_start(answer)}", status=answer.status, may_pass=passing
        )
        if not passing:
            break
        asked_to_wait = min(patience.longest_wait_seconds, _asked_to_wait(answer.headers))
    raise failure


class ChatServer:
    """An OpenAI-compatible server; for any number of threads. A context manager."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        allowed: PrivateHosts,
        *,
        whom: str,
        patience: Patience,
        timeout_seconds: float,
        max_connections: int,
    ) -> None:
        """`url` is its base address, up to `/v1`; `whom` names it in errors ("the teacher")."""
        self.host = urlsplit(url).hostname or ""
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._headers = {"content-type": "application/json"} | (
            {"authorization": f"Bearer {api_key}"} if api_key else {}
        )
        self._key = (api_key or "").encode() if len(api_key or "") >= LEAST_SECRET else b""
        self._whom = whom
        self._patience = patience
        self._timeout_seconds = timeout_seconds
        self._egress = Egress(allowed, max_connections=max_connections)
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the waiting between tries, then the connections."""
        self._closing.set()
        self._egress.close()

    def complete(self, body: Mapping[str, Any], before_each: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """A chat completion. `before_each` is called before every try. Raises `NoUsableAnswer` and `AddressRefused`."""
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")

        def send() -> Answer:
            before_each()
            answer = self._egress.request(
                "POST",
                self._url,
                content=content,
                headers=self._headers,
                timeout_seconds=self._timeout_seconds,
                max_bytes=MAX_ANSWER_BYTES,
            )
            # A server that repeats the key it was sent must not bring it into events, logs and answers.
            return replace(answer, body=answer.body.replace(self._key, b"[key]")) if self._key else answer

        answer = ask(send, self._whom, self._closing, self._patience)
        if not isinstance(answer, dict):
            raise NoUsableAnswer(f"the answer of {self._whom} is no JSON object")
        return answer


def _json(answer: Answer, whom: str) -> Any:
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        raise NoUsableAnswer(f"{whom} did not answer with JSON: {_start(answer)}") from None


def _start(answer: Answer) -> str:
    return answer.body[:_SHOWN].decode("utf-8", "replace")


def _asked_to_wait(headers: Mapping[str, str]) -> float:
    """Seconds, from `retry-after-ms` or `retry-after` (seconds or a date); 0 where neither can be read."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        text = headers.get("retry-after", "0")
        try:
            return max(0.0, float(text))
        except ValueError:
            return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no number, no date, or a date without a zone
        return 0.0
