"""Requests that are cancelled at every moment, against a real server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import pytest

from app.core.inference.engine_client import EngineClient
from app.core.inference.errors import EngineBusy

CHOICE: Final = {"index": 0, "text": "a", "token_ids": [1], "finish_reason": "length"}
ANSWER: Final = {"choices": [CHOICE], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
BODY: Final[dict[str, Any]] = {"model": "m", "prompt": [1], "temperature": 1.0, "n": 1}


def chunk(text: str) -> bytes:
    return f"{len(text):x}\r\n{text}\r\n".encode()


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
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
                body = json.loads(await reader.readexactly(int(length.split(b":")[1])))
                answer = json.dumps(ANSWER)
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                writer.write(chunk(f"data: {answer}\n\n") if body["stream"] else chunk(answer))
                await writer.drain()
                writer.write((chunk("data: [DONE]\n\n") if body["stream"] else b"") + b"0\r\n\r\n")
                await writer.drain()
        writer.close()
        self.open -= 1
        self.changed.set()

    async def until_open(self, most: int) -> None:
        while self.open > most:
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 60)


@asynccontextmanager
async def running(max_running: int = 1) -> AsyncIterator[tuple[Server, EngineClient]]:
    server = Server()
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listener:
        client = EngineClient(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", max_running=max_running)
        yield server, client
        await client.close()
        await server.until_open(0)


async def complete(client: EngineClient) -> None:
    assert (await client.complete(BODY)).usage.completion_tokens == 1


async def read_stream(client: EngineClient) -> None:
    async with client.stream(BODY) as chunks:
        assert [piece.choices[0].text async for piece in chunks] == ["a"]


async def read_half(client: EngineClient) -> None:
    async with client.stream(BODY) as chunks:
        async for _ in chunks:
            return


@pytest.mark.parametrize("work", [complete, read_stream, read_half])
def test_cancelled_requests_leave_no_connection(work: Callable[[EngineClient], Coroutine[None, None, None]]) -> None:
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
                await complete(client)  # `EngineBusy` if the only place were lost
                await server.until_open(1)
                turns += 1

    asyncio.run(run())


def test_complete_requests_share_a_connection() -> None:
    async def run() -> None:
        async with running() as (server, client):
            for _ in range(5):
                await complete(client)
            assert server.accepted == 1

    asyncio.run(run())


def test_requests_above_the_limit_are_refused() -> None:
    async def run() -> None:
        async with running() as (_, client), client.stream(BODY):
            with pytest.raises(EngineBusy):
                await client.complete(BODY)

    asyncio.run(run())
