"""Slow requests: turns of each project, hang-ups, deadlines, and the plain requests of others."""

import asyncio
import json
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Never
from urllib.parse import urlsplit

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.requests import Request

from app.api.errors import respond
from app.api.slow_work import SlowWork, TookTooLong
from app.core.accounts.scopes import ALL
from app.core.deadline import Deadline, check_deadline
from tests.api.server import Server, new_key, new_project
from tests.http_server import Reply, http_server
from tests.setup_jobs import stored_file
from tests.waiting import eventually

SENT = 45
"""More requests than FastAPI has threads."""
IN_PROGRESS = 32
RUN = "/fine_tuning/alpha/graders/run"


class SilentServer:
    """Accepts requests and never answers; `held` are the connections that its clients have not closed."""

    def __init__(self, listener: socket.socket) -> None:
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        self.held: set[socket.socket] = set()
        self._listener = listener
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.held.add(connection)
            threading.Thread(target=self._hold, args=(connection,), daemon=True).start()

    def _hold(self, connection: socket.socket) -> None:
        with connection:
            while connection.recv(65_536):
                pass
        self.held.discard(connection)


@pytest.fixture
def silent() -> Iterator[SilentServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield SilentServer(listener)
        listener.shutdown(socket.SHUT_RDWR)


def send(server: Server, path: str, body: Any, key: str | None = None) -> socket.socket:
    """Send a POST and return its connection, whose response is not read."""
    address = urlsplit(server.url)
    connection = socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=120)
    content = json.dumps(body).encode()
    head = f"POST /v1{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key or server.api_key}\r\n"
    kind = f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + kind.encode() + content)
    return connection


def whole(connection: socket.socket) -> bytes:
    """Return an error response; its head and its body may arrive apart."""
    received = b""
    while not received.endswith(b"}}"):
        more = connection.recv(4_096)
        assert more, received
        received += more
    return received


def authorized(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def run_body(url: str) -> dict[str, Any]:
    return {"grader": {"type": "endpoint", "url": url, "timeout_seconds": 120}, "model_sample": "4", "item": {}}


def _run(_server: Server, silent: SilentServer) -> tuple[str, Any]:
    return RUN, run_body(silent.url)


def _webhook(server: Server, silent: SilentServer) -> tuple[str, Any]:
    body = {"name": "ci", "url": silent.url, "event_types": ["fine_tuning.job.succeeded"]}
    made = httpx.post(f"{server.url}/v1/webhook_endpoints", json=body, headers=authorized(server.api_key)).json()
    return f"/webhook_endpoints/{made['id']}/test", {"event_type": "fine_tuning.job.succeeded"}


def _exchange(server: Server, silent: SilentServer) -> tuple[str, Any]:
    issuer = silent.url.rstrip("/")
    wanted = {"name": "m", "provider": "github", "repository_id": "1", "audience": "https://a.example"}
    admin = authorized(new_key(server.database, server.project_id, *ALL))
    made = httpx.post(f"{server.url}/v1/oidc/trusts", json=wanted | {"issuer": issuer}, headers=admin)
    assert made.status_code == 200, made.text
    key = ec.generate_private_key(ec.SECP256R1())
    return "/oidc/exchange", {"token": jwt.encode({"iss": issuer}, key, algorithm="ES256", headers={"kid": "k"})}


@pytest.mark.parametrize(("prepare", "calls"), [(_run, 8), (_webhook, 8), (_exchange, 1)])
def test_one_project_cannot_delay_another(server: Server, silent: SilentServer, prepare: Any, calls: int) -> None:
    path, body = prepare(server, silent)
    with ExitStack() as opened:
        waiting = [opened.enter_context(send(server, path, body)) for _ in range(SENT)]
        refused: dict[socket.socket, bytes] = {}
        while len(refused) < SENT - IN_PROGRESS:
            ready, _, _ = select.select([one for one in waiting if one not in refused], [], [], 120)
            assert ready
            refused |= {one: whole(one) for one in ready}
        for answer in refused.values():
            assert answer.startswith(b"HTTP/1.1 429"), answer
            assert b"retry-after: 2" in answer
            assert b"too_many_slow_requests" in answer
        eventually(lambda: len(silent.held) == calls)

        _, other = new_project(server.database, "other")
        with (
            http_server(lambda _request: Reply(b'{"results": [{"reward": 1}]}')) as url,
            httpx.Client(base_url=server.url, headers=authorized(other), timeout=30) as http,
        ):
            assert http.get("/healthz").status_code == 200
            assert http.get("/v1/fine_tuning/jobs").status_code == 200
            assert http.post(f"/v1{RUN}", json=run_body(url)).json()["reward"] == 1
        assert len(silent.held) == calls
    eventually(lambda: not silent.held)  # the requests that waited for a turn have ended too, without a call


def test_hang_up_ends_all_calls_of_a_lint(server: Server, silent: SilentServer, tmp_path: Path) -> None:
    with server.database.transaction() as session:
        file = stored_file(session, server.store, server.project_id, tmp_path)
    with send(server, f"/files/{file.id}/lint", {"grader": run_body(silent.url)["grader"], "remote": True}):
        eventually(lambda: len(silent.held) > 1)
    eventually(lambda: not silent.held, 60)  # each call could take two minutes


def test_results_of_slow_work() -> None:
    async def never_hang_up() -> Never:
        await asyncio.Event().wait()
        raise AssertionError

    def work_too_long(deadline: Deadline) -> None:
        deadline.wait(600)
        check_deadline()

    def last_too_long(deadline: Deadline) -> int:
        work_too_long(deadline)
        return 1

    async def check() -> None:
        request = Request({"type": "http"}, receive=never_hang_up)
        pool = SlowWork("tests", threads=1, at_once=1, requests=2, seconds=0.05)
        assert await pool.run(request, "a", lambda _deadline: 1) == 1
        with pytest.raises(ZeroDivisionError):
            await pool.run(request, "a", lambda _deadline: 1 // 0)
        with pytest.raises(TookTooLong, match=r"after 0\.05 s of tests") as caught:
            await pool.run(request, "a", work_too_long)
        assert respond(caught.value).headers["x-should-retry"] == "false"
        assert await pool.run_if_free(request, "a", last_too_long) is None
        await pool.run_later("a", work_too_long)
        slow = asyncio.create_task(pool.run(request, "a", work_too_long))
        await asyncio.sleep(0)  # lets the task begin
        await asyncio.sleep(0)
        assert await pool.run_if_free(request, "a", lambda _deadline: 1) is None
        with pytest.raises(TookTooLong):
            await slow
        assert pool._projects == {}
        pool.close()

    asyncio.run(check())
