"""The outside world of graders: killable processes, the Python sandbox, judges and reward servers."""

import hashlib
import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self
from urllib.parse import urlsplit

import pydantic_monty as monty
from standardwebhooks import Webhook

from app.core.egress.client import AddressRefused, Answer, Egress
from app.core.egress.ip_policy import PrivateHosts
from app.core.egress.json_client import MAX_ANSWER_BYTES, ChatServer, NoUsableAnswer, Patience, ask
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
CONNECTIONS: Final = 64
"""Requests to judges and reward servers at once."""
PATIENCE: Final = Patience(attempts=4, longest_wait_seconds=20.0)
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
        self._egress: Egress | None = None
        self._judge: ChatServer | None = None
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
            egress, self._egress = self._egress, None
            judge, self._judge = self._judge, None
        closing.set()
        if judge is not None:
            judge.close()
        for pool in pools.values():
            pool.close()
        if sandbox is not None:
            sandbox.__exit__(None, None, None)
        if egress is not None:
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
        judge = self._judge_server()
        try:
            return judge.complete(body)
        except (NoUsableAnswer, AddressRefused) as error:
            raise GraderFailure(str(error), ErrorType.judge_server) from error

    def _judge_server(self) -> ChatServer:
        url = self.outside.judge_url
        if url is None:
            message = "no judge is configured; the operator names an OpenAI-compatible server in GROUPTUNE_JUDGE_URL"
            raise GraderFailure(message, ErrorType.judge_server)
        with self._lock:
            if self._judge is None:
                self._judge = ChatServer(
                    url,
                    self.outside.judge_api_key,
                    PrivateHosts.parse((urlsplit(url).hostname or "",)),  # the operator named it: it may be anywhere
                    whom="the judge",
                    patience=PATIENCE,
                    timeout_seconds=JUDGE_TIMEOUT_SECONDS,
                    max_connections=CONNECTIONS,
                )
            return self._judge

    def post(self, url: str, body: dict[str, Any], timeout_seconds: float) -> Any:
        """What a reward server answers. Raises GraderFailure."""
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        # Of the content, so that a server can tell a repeated request.
        name = f"grade_{hashlib.sha256(content).hexdigest()[:32]}"
        closing, egress = self._closing, self._connections()

        def send() -> Answer:
            return egress.request(
                "POST",
                url,
                content=content,
                headers={"content-type": "application/json", **self._signature(name, content)},
                timeout_seconds=timeout_seconds,
                max_bytes=MAX_ANSWER_BYTES,
            )

        try:
            return ask(send, f"the server at {urlsplit(url).hostname}", closing, PATIENCE)
        except (NoUsableAnswer, AddressRefused) as error:
            raise GraderFailure(str(error)) from error

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


def _told(error: monty.MontyError) -> str:
    """The error with the line of the user's source."""
    frames = error.traceback() if isinstance(error, monty.MontyRuntimeError) else []
    lines = [frame.line for frame in frames if frame.filename == _SOURCE]
    return f"{error}" + (f" (line {lines[-1]})" if lines else "")
