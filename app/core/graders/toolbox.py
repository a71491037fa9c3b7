"""The outside world of graders: killable processes, the Python sandbox, judges and reward servers."""

import hashlib
import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self
from urllib.parse import urlsplit

import pydantic_monty as monty
from standardwebhooks import Webhook

from app.core.addresses import PrivateHosts
from app.core.egress import AddressRefused, Answer, Egress, EgressFailed
from app.core.graders.isolated import IsolatedPool, default_workers
from app.core.graders.types import ErrorType, GraderFailure

PYTHON_LIMITS: Final = monty.ResourceLimits(
    max_feed_duration_secs=2.0,
    max_memory=256 * 1024**2,
    max_recursion_depth=500,
    max_suspensions=1000,
    max_total_sleep_secs=2.0,
)
PYTHON_KILLED_AFTER_SECONDS: Final = 6.0
MAX_PRINTED_BYTES: Final = 1024**2
MAX_ANSWER_BYTES: Final = 4 * 1024**2
CONNECTIONS: Final = 64
"""Requests to judges and reward servers at once."""
ATTEMPTS: Final = 4
LONGEST_WAIT_SECONDS: Final = 20.0
JUDGE_TIMEOUT_SECONDS: Final = 120.0
_SOURCE: Final = "<python-input-0>"
"""What the sandbox calls the first thing that it is fed."""
# The same answer gets the same reward, today and tomorrow.
_OS: Final = monty.OSPolicy(
    datetime=datetime(2026, 1, 1, tzinfo=UTC), timezone="utc", sleep="zero", random_start={"seed": 0}
)


@dataclass(frozen=True)
class Outside:
    """What the operator allows graders to reach."""

    judge_url: str | None = None
    """Base address of an OpenAI-compatible server, up to `/v1`."""
    judge_api_key: str | None = None
    allowed_private_hosts: tuple[str, ...] = ()
    """Hosts and networks that reward servers may be in although they are not public."""
    signing_secret: str | None = None
    """`whsec_...`, with which requests to reward servers are signed (Standard Webhooks)."""


class Toolbox:
    """All tools, each started when it is first used. Thread-safe; a context manager."""

    def __init__(
        self, outside: Outside | None = None, *, workers: int | None = None, limit_seconds: float = 5.0
    ) -> None:
        """At most `workers` processes a kind of check, each for `limit_seconds` a call."""
        self.outside = outside or Outside()
        self.workers = workers or default_workers()
        self._limit_seconds = limit_seconds
        self._lock = threading.Lock()
        self._pools: dict[str, IsolatedPool] = {}
        self._python: monty.Monty | None = None
        self._egress: dict[str, Egress] = {}
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all processes and connections; a later call starts them anew."""
        with self._lock:
            closing, self._closing = self._closing, threading.Event()
            pools, self._pools = self._pools, {}
            sandbox, self._python = self._python, None
            connections, self._egress = self._egress, {}
        closing.set()
        for pool in pools.values():
            pool.close()
        if sandbox is not None:
            sandbox.__exit__(None, None, None)
        for egress in connections.values():
            egress.close()

    def pool(self, check: str) -> IsolatedPool:
        """The processes of a check."""
        with self._lock:
            return self._pools.setdefault(check, IsolatedPool(check, self.workers, self._limit_seconds))

    def isolated(self, check: str, *arguments: Any) -> Any:
        """What the check makes of the arguments. Raises GraderFailure."""
        return self.pool(check).call(*arguments)

    def python(self, source: str, sample: dict[str, Any], item: dict[str, Any]) -> Any:
        """What `grade(sample, item)` returns, from a sandbox of its own. Raises GraderFailure."""
        printed = monty.CollectString(max_bytes=MAX_PRINTED_BYTES)
        try:
            with self._sandbox().checkout(limits=PYTHON_LIMITS, os_policy=_OS) as session:
                session.feed_run(source, print_callback=printed)
                inputs = {"sample": sample, "item": item}
                return session.feed_run("grade(sample, item)", inputs=inputs, print_callback=printed)
        except monty.MontyCrashedError as error:
            raise GraderFailure(f"the Python sandbox was killed: {error}", ErrorType.python_server) from error
        except monty.MontyError as error:
            raise GraderFailure(_told(error), ErrorType.python_runtime) from error

    def _sandbox(self) -> monty.Monty:
        with self._lock:
            if self._python is None:
                self._python = monty.Monty(
                    max_processes=self.workers, request_timeout=PYTHON_KILLED_AFTER_SECONDS
                ).__enter__()
            return self._python

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """A judge's chat completion. Raises GraderFailure."""
        url = self.outside.judge_url
        if url is None:
            message = "no judge is configured; the operator names an OpenAI-compatible server in GROUPTUNE_JUDGE_URL"
            raise GraderFailure(message, ErrorType.judge_server)
        closing, key = self._closing, self.outside.judge_api_key
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        # The operator named it, so it may be anywhere.
        egress = self._connections("judge", (urlsplit(url).hostname or "",))
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        answer = self._ask(
            lambda: egress.request(
                "POST",
                f"{url.rstrip('/')}/chat/completions",
                content=content,
                headers=headers,
                timeout_seconds=JUDGE_TIMEOUT_SECONDS,
                max_bytes=MAX_ANSWER_BYTES,
            ),
            "the judge",
            ErrorType.judge_server,
            closing,
        )
        if not isinstance(answer, dict):
            raise GraderFailure("the judge's answer is no JSON object", ErrorType.judge_server)
        return answer

    def post(self, url: str, body: dict[str, Any], timeout_seconds: float) -> Any:
        """What a reward server answers. Raises GraderFailure."""
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        # Of the content, so that a server can tell a repeated request.
        name = f"grade_{hashlib.sha256(content).hexdigest()[:32]}"
        closing = self._closing
        egress = self._connections("endpoint", self.outside.allowed_private_hosts)

        def send() -> Answer:
            return egress.request(
                "POST",
                url,
                content=content,
                headers={"content-type": "application/json", **self._signature(name, content)},
                timeout_seconds=timeout_seconds,
                max_bytes=MAX_ANSWER_BYTES,
            )

        return self._ask(send, f"the server at {urlsplit(url).hostname}", ErrorType.other, closing)

    def _signature(self, name: str, content: bytes) -> dict[str, str]:
        now = datetime.now(UTC)
        headers = {"webhook-id": name, "webhook-timestamp": str(int(now.timestamp()))}
        if secret := self.outside.signing_secret:
            headers["webhook-signature"] = Webhook(secret).sign(name, now, content.decode())
        return headers

    def _connections(self, purpose: str, private_hosts: tuple[str, ...]) -> Egress:
        with self._lock:
            if purpose not in self._egress:
                allowed = PrivateHosts.parse(private_hosts)
                self._egress[purpose] = Egress(allowed, max_connections=CONNECTIONS)
            return self._egress[purpose]

    def _ask(self, send: Callable[[], Answer], whom: str, error_type: ErrorType, closing: threading.Event) -> Any:
        """The JSON of a 2xx answer; again after a while when trying again may help, and nobody closes."""
        failure, asked_to_wait = "", 0.0
        for attempt in range(ATTEMPTS):
            if attempt:
                wait = random.uniform(0.5, 1) * 2 ** (attempt - 1)  # noqa: S311
                if closing.wait(max(wait, min(LONGEST_WAIT_SECONDS, asked_to_wait))):
                    break
            try:
                answer = send()
            except AddressRefused as error:
                raise GraderFailure(str(error), error_type) from error
            except EgressFailed as error:
                failure, asked_to_wait = f"{whom} failed: {error}", 0.0
                continue
            if 200 <= answer.status < 300:
                return _json(answer, whom, error_type)
            failure = f"{whom} answered {answer.status}: {answer.body[:200].decode('utf-8', 'replace')}"
            if answer.status not in (408, 409, 425, 429) and answer.status < 500:
                break
            asked_to_wait = _seconds(answer.headers.get("retry-after"))
        raise GraderFailure(failure or f"{whom} was not asked to the end", error_type)


def _told(error: monty.MontyError) -> str:
    """The error with the line of the user's source."""
    frames = error.traceback() if isinstance(error, monty.MontyRuntimeError) else []
    lines = [frame.line for frame in frames if frame.filename == _SOURCE]
    return f"{error}" + (f" (line {lines[-1]})" if lines else "")


def _json(answer: Answer, whom: str, error_type: ErrorType) -> Any:
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        shown = answer.body[:200].decode("utf-8", "replace")
        raise GraderFailure(f"{whom} did not answer with JSON: {shown}", error_type) from None


def _seconds(retry_after: str | None) -> float:
    try:
        return max(0.0, float(retry_after or 0))
    except ValueError:
        return 0.0  # a date; the own wait will do
