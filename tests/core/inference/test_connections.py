"""Requests that are cancelled at every moment, against a real server."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from app.core.inference.connections import CancellableTransport

ANSWER = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"


class Server:
    """Answers every request on a loopback port and counts the open connections."""

    def __init__(self) -> None:
        self.open = 0
        self.accepted = 0
        self.changed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.accepted += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(ANSWER)
                await writer.drain()
        writer.close()
        self.open -= 1
        self.changed.set()

    async def until_open(self, most: int) -> None:
        while self.open > most:
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 20)


@asynccontextmanager
async def running(
    max_connections: int = 1, idle_seconds: float = 60
) -> AsyncIterator[tuple[Server, httpx.AsyncClient]]:
    server = Server()
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        transport = CancellableTransport(max_connections, idle_seconds)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", transport=transport) as client:
            yield server, client
        await server.until_open(0)


async def read(client: httpx.AsyncClient) -> None:
    assert (await client.get("/")).content == b"ab"


async def read_half(client: httpx.AsyncClient) -> None:
    async with client.stream("GET", "/") as response:
        async for _ in response.aiter_raw():
            return


@pytest.mark.parametrize("work", [read, read_half])
def test_cancelled_requests_leave_no_connection(
    work: Callable[[httpx.AsyncClient], Coroutine[None, None, None]],
) -> None:
    async def run() -> None:
        async with running() as (server, client):
            is_done, turns = False, 0
            while not is_done:
                task = asyncio.create_task(work(client))
                for _ in range(turns):
                    await asyncio.sleep(0)
                is_done = task.done()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await read(client)  # `PoolTimeout` if the only place were lost
                await server.until_open(1)
                turns += 1

    asyncio.run(run())


def test_complete_requests_share_a_connection() -> None:
    async def run() -> None:
        async with running() as (server, client):
            for _ in range(5):
                await read(client)
            assert server.accepted == 1

    asyncio.run(run())


def test_idle_connections_are_closed() -> None:
    async def run() -> None:
        async with running(max_connections=4, idle_seconds=0.01) as (server, client):
            await asyncio.gather(*(read(client) for _ in range(4)))
            await asyncio.sleep(0.02)  # longer than connections may be idle
            await read(client)
            await server.until_open(1)

    asyncio.run(run())


def test_requests_above_the_limit_are_refused() -> None:
    async def run() -> None:
        async with running() as (_, client), client.stream("GET", "/"):
            with pytest.raises(httpx.PoolTimeout):
                await client.get("/")

    asyncio.run(run())
