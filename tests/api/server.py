"""A real uvicorn server in a thread, with a project and its key."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

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

CERTIFICATES: Final = ssl.create_default_context()
"""Read once: each client would take longer to do so than most tests take."""


@dataclass(frozen=True)
class Server:
    """Where it listens and what lies behind it."""

    url: str
    api_key: str
    project_id: str
    settings: Settings
    database: Database
    store: LocalBlobStore
    clients: ExitStack
    """Closes them at the end of the test: the garbage collector would, in any order, and warn of open sockets."""

    def client(self, *, strict: bool = False, api_key: str | None = None, max_retries: int = 0) -> OpenAI:
        """The official SDK; `strict` checks every answer against OpenAI's types."""
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
        """Does what the worker does with every waiting file."""
        while validate_one(self.database, self.store):
            pass

    def lint_jobs(self) -> None:
        """Does what the worker does for every job whose file is validated."""
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
    """Serves the app on a free port of the loopback; yields its URL."""
    config = uvicorn.Config(create_app(settings), host="127.0.0.1", port=0, log_level="warning", lifespan="on")
    server = _Uvicorn(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert server.ready.wait(10)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


def variant(settings: Settings, **values: Any) -> Settings:
    """Other settings of the same installation."""
    known = settings.model_dump() | values
    return Settings.model_validate({"DATABASE_URL": known.pop("database_url"), **known})


def new_project(database: Database, name: str) -> tuple[str, str]:
    """Id and key of a new project."""
    with database.transaction() as session:
        project_id = make_project(session, name)
    return project_id, new_key(database, project_id)


def new_key(database: Database, project_id: str, *granted: str) -> str:
    """The text of a new key with these scopes, with all but admin if there are none."""
    with database.transaction() as session:
        return api_keys.create_key(session, project_id, "test", granted=granted or scopes.DEFAULT).text
