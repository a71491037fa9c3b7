"""Chats that end early: clients that hang up, and keys that are revoked."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from openai import APIError
from sqlalchemy import select

from app.core.accounts import api_key_admin
from app.core.accounts.audit import Actor
from app.core.accounts.tables import ApiKey
from tests.api.conftest import ENDLESS, LONG_CONTEXT
from tests.api.server import Server, new_project
from tests.waiting import eventually

QUESTION: Final[list[Any]] = [{"role": "user", "content": "2+2="}]


@pytest.mark.parametrize("stream", [True, False])
def test_hang_up_frees_the_slots(inference: Server, stream: bool) -> None:
    with ExitStack() as stack:
        for _ in range(2):  # as many sequences as the engine decodes at once
            stack.enter_context(sent(inference, stream=stream, **ENDLESS))
        eventually(lambda: not is_answered(inference, 2), 60)
    assert is_answered(inference, 30)


def test_hang_ups_close_their_connections_to_the_engine(inference: Server) -> None:
    port = urlsplit(inference.settings.serve_url[0]).port
    before = connections_to(port)
    for _ in range(20):
        with sent(inference, stream=True, model="tools", max_tokens=200):
            pass
    # The pool closes expired connections when a request needs one; that one stays open.
    eventually(lambda: is_answered(inference, 60) and connections_to(port) <= before + 1)


def test_revoked_key_ends_its_streams(inference: Server) -> None:
    project, key = new_project(inference.database, "to-revoke")
    with inference.client(api_key=key).chat.completions.create(messages=QUESTION, stream=True, **ENDLESS) as stream:
        next(iter(stream))
        with inference.database.transaction() as session:
            held = session.scalars(select(ApiKey).where(ApiKey.project_id == project)).one()
            api_key_admin.revoke(session, Actor(project), held.id)
        with pytest.raises(APIError, match="revoked") as caught:
            list(stream)
    assert caught.value.code == "invalid_api_key"
    assert is_answered(inference, 30)


def test_error_in_a_stream_of_responses_is_typed(inference: Server) -> None:
    project, key = new_project(inference.database, "to-revoke-too")
    body = {"model": "tools", "input": "2+2=", "max_output_tokens": LONG_CONTEXT - 2000, "stream": True}
    body["logit_bias"] = ENDLESS["logit_bias"]
    headers = {"authorization": f"Bearer {key}"}
    with httpx.stream(
        "POST", f"{inference.url}/v1/responses", json=body, headers=headers, timeout=60, trust_env=False
    ) as response:
        lines = response.iter_lines()
        next(lines)
        with inference.database.transaction() as session:
            held = session.scalars(select(ApiKey).where(ApiKey.project_id == project)).one()
            api_key_admin.revoke(session, Actor(project), held.id)
        *_, before, _, name, data, _ = lines
    error = json.loads(data.removeprefix("data: "))
    assert (name, error["type"], error["code"]) == ("event: error", "error", "invalid_api_key")
    assert error["message"] == error["error"]["message"]
    assert error["sequence_number"] > json.loads(before.removeprefix("data: "))["sequence_number"]


def is_answered(server: Server, seconds: float) -> bool:
    body = {"model": "tiny", "messages": QUESTION, "max_tokens": 4}
    headers = {"authorization": f"Bearer {server.api_key}"}
    url = f"{server.url}/v1/chat/completions"
    try:
        return httpx.post(url, json=body, headers=headers, timeout=seconds, trust_env=False).is_success
    except httpx.ReadTimeout:
        return False


def connections_to(port: int | None) -> int:
    """Return how many connections this process, in which the API runs, has to a port."""
    return sum(bool(each.raddr) and each.raddr.port == port for each in psutil.Process().net_connections("tcp"))


@contextmanager
def sent(server: Server, **body: Any) -> Iterator[None]:
    """Send a request, wait for the start of its answer if it is streamed, and hang up at the end of the block."""
    content = json.dumps({"model": "tiny", "messages": QUESTION, **body}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.api_key}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(head.encode() + content)
        if body["stream"]:
            assert connection.recv(12) == b"HTTP/1.1 200"
        yield
