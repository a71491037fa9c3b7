"""A client that closes its connection ends the work of its request."""

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, Iterator

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from app.api.hang_ups import until_hang_up
from app.api.streamed_answer import streamed

started, cancelled, closed = threading.Event(), threading.Event(), threading.Event()
app = FastAPI()


async def wait(seconds: float) -> str:
    started.set()
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        cancelled.set()
        raise
    return "done"


@app.post("/after/{seconds}")
async def handle(request: Request, seconds: float) -> str:
    await request.body()
    return await until_hang_up(request, wait(seconds))


async def messages() -> AsyncGenerator[str]:
    """A stream whose end takes several waits, as that of a connection to an engine does."""
    try:
        yield "data: 1\n\n"
        await asyncio.sleep(600)
    finally:
        for _ in range(5):
            await asyncio.sleep(0.01)
        closed.set()


@app.post("/streamed")
async def stream(request: Request) -> StreamingResponse:
    await request.body()
    return await streamed(request, messages())


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(10)


def send(port: int, path: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = f"POST /{path} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}"
    connection.sendall(head.encode())
    return connection


def test_hang_up_cancels_the_work(port: int) -> None:
    with send(port, "after/600"):
        assert started.wait(60)
    assert cancelled.wait(60)


def test_hang_up_lets_a_stream_close(port: int) -> None:
    with send(port, "streamed") as connection, connection.makefile() as response:
        while "data: 1" not in response.readline():
            pass
    assert closed.wait(60)


def test_patient_client_gets_the_result(port: int) -> None:
    with send(port, "after/0.05") as connection, connection.makefile() as response:
        assert response.read().endswith('"done"')
