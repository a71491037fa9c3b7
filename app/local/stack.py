"""The whole service on one machine: starts the engines, the inference engine, the API and two workers, in this order.

Contains no SQL: the caller passes functions for the migrations and the first API key.
"""

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from app.core.paths import exists
from app.core.secrets import new_key
from app.local.engine import EmbeddedEngine, ReportProgress, report_nothing
from app.local.errors import LocalStackError
from app.local.placement import make_state_dir, write_atomically
from app.local.ports import choose_port, claim_port, store_port
from app.local.postgres import EmbeddedPostgres
from app.local.process import ChildSpec, log_tail
from app.local.supervisor import Supervisor
from app.local.valkey import EmbeddedValkey

READY_TIMEOUT_SECONDS = 180.0
READY_POLL_SECONDS = 0.1
READY_REQUEST_SECONDS = 5.0
PROGRESS_EVERY_SECONDS = 10.0
API_DRAIN_SECONDS = 5
API_STOP_GRACE_SECONDS = 10.0
SERVE_STOP_GRACE_SECONDS = 10.0
WORKER_STOP_GRACE_SECONDS = 40.0  # a drain takes up to 30 s: it finishes the optimiser step and writes a checkpoint
DEFAULT_HOST = "127.0.0.1"
WILDCARD_HOSTS = {"": DEFAULT_HOST, "0.0.0.0": DEFAULT_HOST, "::": "[::1]"}  # noqa: S104 - compared, not bound
SECRET_MODE = 0o600
CONNECTION_NAME = "connection.json"
API_KEY_NAME = "api_key"
SERVE_KEY_NAME = "serve_key"
KEY_RING_NAME = "secret_keys"

Migrate = Callable[[str], None]
"""Upgrades the schema of the database at the URL."""
Bootstrap = Callable[[str, str | None], str]
"""Ensures that a project and an API key exist; gets the key of the last run and returns the key to use."""


class Stack:
    """Context manager: inside the block, the service answers at `base_url` and `api_key` is valid.

    Raises `LocalStackError`, with the end of the relevant log, if a part does not start. `wait` blocks until a part
    fails permanently. SIGINT and SIGTERM raise KeyboardInterrupt in the main thread. Leaving the block stops all
    parts, in reverse order.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        migrate: Migrate,
        bootstrap: Bootstrap,
        database_url: str | None = None,
        redis_url: str | None = None,
        host: str = DEFAULT_HOST,
        port: int | None = None,
        progress: ReportProgress = report_nothing,
    ) -> None:
        """A URL replaces the embedded engine. `port` None: the port of the last start; 0: any free port, once."""
        self.state_dir = state_dir.absolute()
        self.database_url = database_url or ""
        self.redis_url = redis_url or ""
        self.host = host
        self.port = port or 0
        self._keeps_port = port != 0
        self.api_key = ""
        self._migrate = migrate
        self._bootstrap = bootstrap
        self._progress = progress
        self.inference: dict[str, str] = {}
        """Variables of the embedded inference engine and of the API; empty if the operator has engines."""
        self._supervisor = Supervisor(self.state_dir, progress=progress)
        self._resources = ExitStack()

    @property
    def key_path(self) -> Path:
        """Path of the file with the API key."""
        return self.state_dir / API_KEY_NAME

    @property
    def base_url(self) -> str:
        """Base URL for an OpenAI client: `http://HOST:PORT/v1`."""
        return f"{self._root_url}/v1"

    def __enter__(self) -> Self:
        make_state_dir(self.state_dir)
        with ExitStack() as resources:
            resources.enter_context(self._supervisor)
            resources.callback(self._remove_connection)
            self._remove_connection()
            self.port = self._claim_port(resources)
            self._start_engines()
            self._progress("Migrating the database")
            self._migrate(self.database_url)
            self._prepare_api_key()
            self._prepare_secret_keys()
            self._start_service()
            self._await_service()
            self._supervisor.keep("api")
            self._publish_connection()
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    def wait(self, seconds: float | None = None) -> None:
        """Block for `seconds`, or until interrupted; raises `ChildFailed` when a part fails permanently."""
        self._supervisor.wait(seconds)

    @property
    def _root_url(self) -> str:
        host = WILDCARD_HOSTS.get(self.host, f"[{self.host}]" if ":" in self.host else self.host)
        return f"http://{host}:{self.port}"

    def _claim_port(self, resources: ExitStack) -> int:
        if self.port or not self._keeps_port:
            return claim_port(self.host, self.port)
        return choose_port(self.state_dir, self.host, resources)

    def _start_engines(self) -> None:
        if not self.database_url:
            self._progress("Starting Postgres")
            self.database_url = self._start_engine(EmbeddedPostgres(self.state_dir, progress=self._progress))
        if not self.redis_url:
            self._progress("Starting Valkey")
            self.redis_url = self._start_engine(EmbeddedValkey(self.state_dir))

    def _start_engine(self, engine: EmbeddedEngine) -> str:
        spec = engine.spec()
        self._supervisor.start(spec)
        engine.wait_ready(self._supervisor.wait)
        self._supervisor.keep(spec.name)
        return engine.url

    def _prepare_api_key(self) -> None:
        last_key = self.key_path.read_text().strip() if exists(self.key_path) else ""
        self.api_key = self._bootstrap(self.database_url, last_key or None)
        if self.api_key != last_key:
            write_atomically(self.key_path, f"{self.api_key}\n", mode=SECRET_MODE)

    def _prepare_secret_keys(self) -> None:
        path = self.state_dir / KEY_RING_NAME
        if not exists(path):
            write_atomically(path, f"{new_key()}\n", mode=SECRET_MODE)

    def _start_service(self) -> None:
        self._progress("Starting the API, the workers and the inference engine")
        self._start_inference()
        serve = (
            "--host",
            self.host,
            "--port",
            str(self.port),
            "--timeout-graceful-shutdown",
            str(API_DRAIN_SECONDS),
            # uvicorn would let every process of this machine say which address its requests come from.
            *(() if os.environ.get("FORWARDED_ALLOW_IPS") else ("--no-proxy-headers",)),
        )
        self._start_python(
            "api",
            API_STOP_GRACE_SECONDS,
            "uvicorn",
            "--factory",
            "app.main:create_app",
            *serve,
            extra=self.inference,
        )
        self._start_worker("train", "-c", "1")
        # Runs of evals sample from the engine.
        self._start_worker("default", "-c", "4", extra=self.inference)

    def _start_inference(self) -> None:
        """Start the embedded inference engine, unless the operator has engines."""
        if os.environ.get("GROUPTUNE_SERVE_URL"):
            return
        path = self.state_dir / SERVE_KEY_NAME
        if not exists(path):
            write_atomically(path, f"{secrets.token_urlsafe(32)}\n", mode=SECRET_MODE)
        port = claim_port(DEFAULT_HOST, 0)
        self.inference = {
            "GROUPTUNE_SERVE_URL": f"http://{DEFAULT_HOST}:{port}",
            "GROUPTUNE_SERVE_API_KEY": path.read_text().strip(),
        }
        self._start_python(
            "serve", SERVE_STOP_GRACE_SECONDS, "worker.serving", "--port", str(port), extra=self.inference
        )

    def _start_worker(self, queue: str, *options: str, extra: Mapping[str, str] | None = None) -> None:
        base = (
            "celery",
            "-A",
            "worker.celery_app",
            "worker",
            "-Q",
            queue,
            "-n",
            f"{queue}@%h",
            "-P",
            "threads",
        )
        chatter = ("--without-gossip", "--without-mingle", "--loglevel", "INFO")
        self._start_python(f"worker-{queue}", WORKER_STOP_GRACE_SECONDS, *base, *options, *chatter, extra=extra)

    def _start_python(
        self, name: str, stop_grace_seconds: float, module: str, *arguments: str, extra: Mapping[str, str] | None = None
    ) -> None:
        engines = {"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url}
        own = {"GROUPTUNE_STATE_DIR": str(self.state_dir), "PYTHONUNBUFFERED": "1"}
        secret = {
            "GROUPTUNE_SECRET_KEYS_FILE": str(self.state_dir / KEY_RING_NAME)
        }  # overridden by the operator's own variable
        self._supervisor.start(
            ChildSpec(
                name=name,
                argv=(sys.executable, "-m", module, *arguments),
                env={**secret, **os.environ, **engines, **own, **(extra or {})},
                log_path=self.state_dir / "logs" / f"{name}.log",
                stop_grace_seconds=stop_grace_seconds,
            )
        )

    def _await_service(self) -> None:
        started = last_report = time.monotonic()
        url = f"{self._root_url}/readyz"
        # Ignore proxies from the environment, because the address is local.
        with httpx.Client(timeout=READY_REQUEST_SECONDS, trust_env=False) as client:
            while not _is_ready(client, url):
                now = time.monotonic()
                if now - started > READY_TIMEOUT_SECONDS:
                    log = self.state_dir / "logs" / "api.log"
                    raise LocalStackError(
                        f"{url} is not ready after {READY_TIMEOUT_SECONDS:g} s. The end of {log}:\n{log_tail(log)}"
                    )
                if now - last_report > PROGRESS_EVERY_SECONDS:
                    last_report = now
                    self._progress(f"Waiting for {url} ({now - started:.0f} s)")
                self._supervisor.wait(READY_POLL_SECONDS)

    def _publish_connection(self) -> None:
        if self._keeps_port:
            store_port(self.state_dir, self.port)
        connection = {"base_url": self.base_url, "api_key": self.api_key, "pid": os.getpid()}
        write_atomically(self.state_dir / CONNECTION_NAME, json.dumps(connection) + "\n", mode=SECRET_MODE)

    def _remove_connection(self) -> None:
        with suppress(FileNotFoundError):
            (self.state_dir / CONNECTION_NAME).unlink()


def _is_ready(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
