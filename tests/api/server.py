"""A real uvicorn server in a thread, with a project and its key."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest
import uvicorn
from openai import DefaultHttpxClient, OpenAI

from app.core.accounts import api_keys, scopes
from app.core.db import Database
from app.core.jobs import lifecycle
from app.core.settings import Settings
from app.core.storage.local import LocalBlobStore
from app.main import create_app
from tests.setup_jobs import make_project
from worker.file_validation import validate_one
from worker.job_lint import lint_one
from worker.row_checking import check_one

CERTIFICATES: Final = ssl.create_default_context()
"""Loaded once: loading them takes longer than most tests."""


lenient_and_strict: Final = pytest.mark.parametrize("client", [False, True], ids=["lenient", "strict"], indirect=True)
"""Runs a test of the shape of answers with both clients."""


@dataclass(frozen=True)
class Server:
    """A running server, its project and its storage."""

    url: str
    api_key: str
    project_id: str
    settings: Settings
    database: Database
    store: LocalBlobStore
    clients: ExitStack
    """Closes the clients at the end of the test; otherwise the garbage collector warns about open sockets."""

    def client(self, *, strict: bool = False, api_key: str | None = None, max_retries: int = 0) -> OpenAI:
        """Return the official SDK; `strict` validates every response against OpenAI's types."""
        return self.clients.enter_context(
            OpenAI(
                base_url=f"{self.url}/v1",
                api_key=api_key or self.api_key,
                max_retries=max_retries,
                _strict_response_validation=strict,
                default_headers={"x-grouptune-strict-enums": "true"} if strict else None,
                http_client=DefaultHttpxClient(verify=CERTIFICATES),
            )
        )

    def validate_files(self) -> None:
        """Validate all waiting files and check their rows, as the worker does."""
        while validate_one(self.database, self.store) or check_one(self.database, self.store, self.settings.models_dir):
            pass

    def lint_jobs(self) -> None:
        """Lint every job whose file is validated, as the worker does."""
        while lint_one(self.database, self.store):
            pass
        with self.database.transaction() as session:
            lifecycle.admit_validated(session)


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextmanager
def serve(settings: Settings) -> Iterator[str]:
    """Serve the app on a free loopback port and yield its URL."""
    config = uvicorn.Config(create_app(settings), host="127.0.0.1", port=0, log_level="warning", lifespan="on")
    server = _Uvicorn(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert server.ready.wait(240)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


def variant(settings: Settings, **values: Any) -> Settings:
    """Return other settings of the same installation."""
    fields = settings.model_dump() | values
    return Settings.model_validate({"DATABASE_URL": fields.pop("database_url"), **fields})


def new_project(database: Database, name: str) -> tuple[str, str]:
    """Create a project; return its id and a key."""
    with database.transaction() as session:
        project_id = make_project(session, name)
    return project_id, new_key(database, project_id)


def new_key(database: Database, project_id: str, *granted: str) -> str:
    """Create a key with these scopes, or with all except admin; return its text."""
    with database.transaction() as session:
        return api_keys.create_key(session, project_id, "test", granted=granted or scopes.DEFAULT).text
