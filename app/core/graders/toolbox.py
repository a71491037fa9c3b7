"""External resources of graders: killable processes, the Python sandbox, judge models and reward servers."""

import hashlib
import json
import re
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self
from urllib.parse import urlsplit

from standardwebhooks import Webhook

from app.core.deadline import Deadline
from app.core.egress.client import AddressRefused, Egress, EgressResponse
from app.core.egress.ip_policy import PrivateHosts
from app.core.egress.json_client import (
    MAX_RESPONSE_BYTES,
    ChatServer,
    NoUsableResponse,
    request_with_retries,
)
from app.core.graders.isolated import IsolatedPool, default_workers
from app.core.graders.python_sandbox import PythonSandbox
from app.core.graders.types import ErrorType, GraderFailure
from app.core.retry import RetryPolicy

CONNECTIONS: Final = 64
"""Most concurrent requests to judges and reward servers."""
RETRY_POLICY: Final = RetryPolicy(attempts=4, longest_wait_seconds=20.0)
JUDGE_TIMEOUT_SECONDS: Final = 120.0
_RESPONSE_FORMAT: Final = re.compile(r"response.?format|json.?schema|structured.?output|guided", re.IGNORECASE)


@dataclass(frozen=True)
class ExternalServices:
    """The external services that the operator allows graders to reach."""

    judge_url: str | None = None
    """Base URL of an OpenAI-compatible server, up to `/v1`."""
    judge_api_key: str | None = None
    allowed_private_hosts: tuple[str, ...] = ()
    """Private hosts and networks that reward servers may use."""
    signing_secret: str | None = None
    """`whsec_...`: signs requests to reward servers (Standard Webhooks)."""
    retry_policy: RetryPolicy = RETRY_POLICY


class Toolbox:
    """All tools; each starts on first use. Thread-safe; a context manager."""

    def __init__(
        self,
        outside: ExternalServices | None = None,
        *,
        workers: int | None = None,
        limit_seconds: float = 5.0,
        niceness: int = 0,
    ) -> None:
        """At most `workers` processes per kind of check, each with `limit_seconds` per call.

        They leave the processors to this process if their `niceness` is positive.
        """
        self.outside = outside or ExternalServices()
        self.workers = workers or default_workers()
        self._limit_seconds, self._niceness = limit_seconds, niceness
        self._lock = threading.Lock()
        self._pools: dict[str, IsolatedPool] = {}
        self._sandbox: PythonSandbox | None = None
        self._egress: Egress | None = None
        self._judge: ChatServer | None = None
        self._closing = Deadline()
        self._plain_judges: set[Any] = set()
        """Judge models whose server refuses `response_format`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes and connections; a later call starts new ones."""
        with self._lock:
            closing, self._closing = self._closing, Deadline()
            pools, self._pools = self._pools, {}
            sandbox, self._sandbox = self._sandbox, None
            egress, self._egress = self._egress, None
            judge, self._judge = self._judge, None
        closing.expire()
        if judge is not None:
            judge.close()
        for pool in pools.values():
            pool.close()
        if sandbox is not None:
            sandbox.close()
        if egress is not None:
            egress.close()

    def pool(self, check: str) -> IsolatedPool:
        """Return the process pool of a check."""
        with self._lock:
            if check not in self._pools:
                self._pools[check] = IsolatedPool(check, self.workers, self._limit_seconds, niceness=self._niceness)
            return self._pools[check]

    def until(self, deadline: Deadline) -> "LimitedTools":
        """Return these tools with a deadline, which ends all their calls."""
        return LimitedTools(self, deadline)

    def isolated(self, check: str, *arguments: Any, deadline: Deadline | None = None) -> Any:
        """Run a check on the arguments and return its result. Raises GraderFailure."""
        return self.pool(check).call(*arguments, deadline=deadline)

    def python(
        self, source: str, sample: dict[str, Any], item: dict[str, Any], deadline: Deadline | None = None
    ) -> Any:
        """Return `grade(sample, item)` from a fresh sandbox. Raises GraderFailure, also if the deadline has passed."""
        if deadline is not None and deadline.has_passed:
            raise GraderFailure("no time was left for the Python sandbox", ErrorType.unresponsive)
        with self._lock:
            if self._sandbox is None:
                self._sandbox = PythonSandbox(self.workers)
            sandbox = self._sandbox
        return sandbox.grade(source, sample, item)

    def chat(self, body: dict[str, Any], deadline: Deadline | None = None) -> dict[str, Any]:
        """Request a chat completion from the judge. Raises GraderFailure.

        A server that refuses `response_format` is asked again without it, once for each judge model.
        """
        judge, model = self._judge_server(), body.get("model")
        if model in self._plain_judges:
            body = {name: value for name, value in body.items() if name != "response_format"}
        try:
            return judge.complete(body, deadline=deadline)
        except (NoUsableResponse, AddressRefused) as error:
            if "response_format" in body and _refuses_response_format(error):
                self._plain_judges.add(model)
                return self.chat(body, deadline)
            raise _failure(error, ErrorType.judge_server) from error

    def _judge_server(self) -> ChatServer:
        url = self.outside.judge_url
        if url is None:
            message = "no judge is configured; set GROUPTUNE_JUDGE_URL to the base URL of an OpenAI-compatible server"
            raise GraderFailure(message, ErrorType.judge_server)
        with self._lock:
            if self._judge is None:
                self._judge = ChatServer(
                    url,
                    self.outside.judge_api_key,
                    PrivateHosts.parse(
                        (urlsplit(url).hostname or "",)
                    ),  # the operator configured it, so it may have any address
                    server_name="the judge",
                    retry_policy=self.outside.retry_policy,
                    timeout_seconds=JUDGE_TIMEOUT_SECONDS,
                    max_connections=CONNECTIONS,
                )
            return self._judge

    def post(self, url: str, body: dict[str, Any], timeout_seconds: float, deadline: Deadline | None = None) -> Any:
        """Post to a reward server and return its JSON reply. Raises GraderFailure."""
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        # The id is a hash of the content, so that a server can recognise a repeated request.
        name = f"grade_{hashlib.sha256(content).hexdigest()[:32]}"
        until, egress = deadline or self._closing, self._connections()

        def send() -> EgressResponse:
            return egress.request(
                "POST",
                url,
                content=content,
                headers={"content-type": "application/json", **self._signature(name, content)},
                timeout_seconds=timeout_seconds,
                max_bytes=MAX_RESPONSE_BYTES,
                deadline=until,
            )

        try:
            server = f"the server at {urlsplit(url).hostname}"
            return request_with_retries(send, server, until, self.outside.retry_policy)
        except (NoUsableResponse, AddressRefused) as error:
            raise _failure(error) from error

    def _signature(self, name: str, content: bytes) -> dict[str, str]:
        now = datetime.now(UTC)
        headers = {"webhook-id": name, "webhook-timestamp": str(int(now.timestamp()))}
        if secret := self.outside.signing_secret:
            headers["webhook-signature"] = Webhook(secret).sign(name, now, content.decode())
        return headers

    def _connections(self) -> Egress:
        with self._lock:
            if self._egress is None:
                allowed = PrivateHosts.parse(self.outside.allowed_private_hosts)
                self._egress = Egress(allowed, max_connections=CONNECTIONS)
            return self._egress


@dataclass(frozen=True)
class LimitedTools:
    """The tools of a `Toolbox` for one request. Its calls raise GraderFailure at the deadline."""

    _tools: Toolbox
    _deadline: Deadline

    @property
    def workers(self) -> int:
        return self._tools.workers

    def isolated(self, check: str, *arguments: Any) -> Any:
        return self._tools.isolated(check, *arguments, deadline=self._deadline)

    def python(self, source: str, sample: dict[str, Any], item: dict[str, Any]) -> Any:
        return self._tools.python(source, sample, item, self._deadline)

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._tools.chat(body, self._deadline)

    def post(self, url: str, body: dict[str, Any], timeout_seconds: float) -> Any:
        return self._tools.post(url, body, timeout_seconds, self._deadline)


def _failure(error: NoUsableResponse | AddressRefused, error_type: ErrorType = ErrorType.other) -> GraderFailure:
    is_transient = isinstance(error, NoUsableResponse) and error.is_retryable
    return GraderFailure(str(error), error_type, is_transient=is_transient)


def _refuses_response_format(error: Exception) -> bool:
    refused = isinstance(error, NoUsableResponse) and error.status in (400, 404, 415, 422, 501)
    return refused and _RESPONSE_FORMAT.search(str(error)) is not None
