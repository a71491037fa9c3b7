"""What a request body may cost, and when its sender is known."""

import socket
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx
import pytest

from app.api.middleware.body_limit import FORM_OVERHEAD_BYTES, HELD_BYTES, JSON_BYTES
from app.core.accounts.tables import Project
from tests.api.server import Server, new_project
from tests.waiting import eventually


def post(server: Server, path: str, body: str, key: str | None = None) -> httpx.Response:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    return httpx.post(f"{server.url}{path}", content=body, headers=headers)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize("key", ["", "gt_live_unknown"])
def test_unknown_caller_is_refused_before_the_body(server: Server, key: str) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=60) as connection:
        head = "POST /v1/fine_tuning/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        connection.sendall(f"{head}authorization: Bearer {key}\r\ncontent-length: 8000000\r\n\r\n".encode())
        assert connection.recv(64).startswith(b"HTTP/1.1 401")  # although no byte of the body was sent


@pytest.mark.parametrize("path", ["/v1/oidc/exchange", "/v1/dashboard/session"])
def test_public_bodies_are_small(server: Server, path: str) -> None:
    assert code(post(server, path, '{"token": "' + "x" * 65_536 + '"}')) == (413, "payload_too_large")
    assert post(server, path, '{"token": "' + "x" * 60_000 + '"}').status_code in (400, 401)


def test_too_many_members_are_refused(server: Server) -> None:
    body = "{" + ",".join(f'"a{number}": 1' for number in range(20_001)) + "}"
    assert code(post(server, "/v1/fine_tuning/jobs", body, server.api_key)) == (400, "too_many_members")
    assert code(post(server, "/v1/fine_tuning/jobs", body)) == (401, "invalid_api_key")


def test_quotes_in_a_text_are_no_members(server: Server) -> None:
    body = '{"model": "' + '\\": ' * 30_000 + '"}'
    assert code(post(server, "/v1/fine_tuning/jobs", body, server.api_key)) != (400, "too_many_members")


def test_bodies_in_progress_are_limited_by_project(server: Server) -> None:
    def status(key: str) -> int:
        return post(server, "/v1/fine_tuning/jobs/validate", "{}", key).status_code

    head = "POST /v1/fine_tuning/jobs/validate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += f"authorization: Bearer {server.api_key}\r\ncontent-length: {JSON_BYTES}\r\n\r\n"
    address = urlsplit(server.url)
    with ExitStack() as opened:
        for _ in range(HELD_BYTES // JSON_BYTES + 1):
            connection = socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=60)
            opened.enter_context(connection)
            connection.sendall(head.encode() + b" " * (JSON_BYTES - 1))  # the last byte is missing
        assert connection.recv(4_096).startswith(b"HTTP/1.1 429")
        assert status(new_project(server.database, "other")[1]) == 200
    eventually(lambda: status(server.api_key) == 200)


def test_uploads_in_progress_are_limited_by_project(server: Server) -> None:
    """Each of them fits into the quota, but together they would fill the disk before the first one is stored."""
    largest = server.settings.max_file_bytes + FORM_OVERHEAD_BYTES
    with server.database.transaction() as session:
        session.get_one(Project, server.project_id).max_stored_bytes = 2 * largest

    def upload(key: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"}
        return httpx.post(f"{server.url}/v1/files", data={"purpose": "evals"}, files={"file": b"{}"}, headers=headers)

    head = "POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=b\r\n"
    head += f"authorization: Bearer {server.api_key}\r\ncontent-length: {largest}\r\n\r\n--b"
    address = urlsplit(server.url)
    assert upload(server.api_key).status_code == 200
    with ExitStack() as opened:
        for _ in range(2):
            connection = socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=60)
            opened.enter_context(connection)
            connection.sendall(head.encode())
        eventually(lambda: upload(server.api_key).status_code == 429)
        assert code(upload(server.api_key)) == (429, "too_many_bytes_in_progress")
        assert upload(new_project(server.database, "other")[1]).status_code == 200
    eventually(lambda: upload(server.api_key).status_code == 200)
