"""What a request body may cost, and when its sender is known."""

import socket
from urllib.parse import urlsplit

import httpx
import pytest

from tests.api.server import Server


def post(server: Server, path: str, body: str, key: str | None = None) -> httpx.Response:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    return httpx.post(f"{server.url}{path}", content=body, headers=headers)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize("key", ["", "gt_live_unknown"])
def test_unknown_caller_is_refused_before_the_body(server: Server, key: str) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=10) as connection:
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
