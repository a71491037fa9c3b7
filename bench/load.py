"""A load generator for HTTP/1.1 on the loopback: `python -m bench.load SPEC_FILE`; prints what it measured as JSON.

A hundred times cheaper than a client library, so that on two cores it is the server that is measured. Latency counts
from the moment when a request was *due*: a server that stalls is not spared the requests that had to wait meanwhile.
"""

import asyncio
import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

END_OF_HEAD = b"\r\n\r\n"


@dataclass
class Measured:
    """Latencies in milliseconds, and what was not answered with 2xx."""

    milliseconds: list[float] = field(default_factory=list)
    errors: int = 0
    first_error: str | None = None
    seconds: float = 0.0

    def fail(self, why: str) -> None:
        self.errors += 1
        self.first_error = self.first_error or why[:300]


class Connection(asyncio.Protocol):
    """One kept-alive connection, one request at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._body_at = -1
        self._length = 0
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer. Raises ConnectionError."""
        if self.transport is None or self.transport.is_closing():
            raise ConnectionError("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._body_at < 0:
            end = self._buffer.find(END_OF_HEAD)
            if end < 0:
                return
            self._body_at = end + len(END_OF_HEAD)
            head = bytes(self._buffer[:end]).lower()
            start = head.find(b"content-length:")
            self._length = int(head[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
        if len(self._buffer) < self._body_at + self._length or self._answer is None:
            return
        status = int(self._buffer[9:12])
        body = bytes(self._buffer[self._body_at : self._body_at + self._length])
        self._buffer.clear()
        self._body_at = -1
        if not self._answer.done():
            self._answer.set_result((status, body))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(str(error or "the server closed the connection")))


class Stream(asyncio.Protocol):
    """A reader of server-sent events whose data carry the time at which they were written."""

    def __init__(self, request: bytes, measured: Measured, opened: asyncio.Event, arrived: asyncio.Semaphore) -> None:
        """`opened` is set once it is, `arrived` is released with every event."""
        self._request, self._measured, self._opened, self._arrived = request, measured, opened, arrived
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        now = time.time()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"event: state"):
                self._opened.set()
            at = line.find(b'"sent":')
            if at > 0:
                sent = float(line[at + 7 :].split(b"}", 1)[0].split(b",", 1)[0])
                self._measured.milliseconds.append((now - sent) * 1000)
                self._arrived.release()

    def connection_lost(self, error: Exception | None) -> None:
        self._opened.set()


def request(spec: dict[str, Any], target: dict[str, Any]) -> bytes:
    """One request as it goes over the wire. `target`: path, and method and body if it is no GET."""
    address = urlsplit(spec["url"])
    body = json.dumps(target["body"]).encode() if "body" in target else b""
    head = [f"{target.get('method', 'GET')} {target['path']} HTTP/1.1", f"host: {address.netloc}"]
    head += [f"{name}: {value}" for name, value in spec["headers"].items()]
    if body:
        head += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join(head).encode() + END_OF_HEAD + body


async def _one(connection: Connection, wire: bytes, due: float, measured: Measured) -> None:
    try:
        status, body = await connection.ask(wire)
    except ConnectionError as error:
        measured.fail(str(error))
        return
    measured.milliseconds.append((time.perf_counter() - due) * 1000)
    if not 200 <= status < 300:
        measured.fail(f"{status}: {body.decode(errors='replace')}")


async def poll(spec: dict[str, Any]) -> Measured:
    """`clients` clients ask once a second, each at a moment of its own, for `seconds`."""
    measured, connections = Measured(), await _connect(spec)
    begun = time.perf_counter() + 0.5

    async def poller(number: int, connection: Connection) -> None:
        wire = request(spec, spec["targets"][number % len(spec["targets"])])
        for second in range(spec["seconds"]):
            due = begun + second + number / len(connections)
            await asyncio.sleep(due - time.perf_counter())
            await _one(connection, wire, due, measured)

    await asyncio.gather(*(poller(number, one) for number, one in enumerate(connections)))
    measured.seconds = time.perf_counter() - begun
    return measured


async def saturate(spec: dict[str, Any]) -> Measured:
    """`clients` clients ask again as soon as they have an answer, for `seconds`."""
    measured, connections = Measured(), await _connect(spec)
    begun = time.perf_counter()

    async def client(number: int, connection: Connection) -> None:
        turn = number
        while (due := time.perf_counter()) - begun < spec["seconds"]:
            await _one(connection, request(spec, spec["targets"][turn % len(spec["targets"])]), due, measured)
            turn += len(connections)

    await asyncio.gather(*(client(number, one) for number, one in enumerate(connections)))
    measured.seconds = time.perf_counter() - begun
    return measured


async def follow(spec: dict[str, Any]) -> Measured:
    """`clients` streams; says `ready` once all are open, and reads until `events` have arrived.

    What is missing a second after its input has ended does not come any more.
    """
    measured, arrived = Measured(), asyncio.Semaphore(0)
    address, loop = urlsplit(spec["url"]), asyncio.get_running_loop()
    opened = [asyncio.Event() for _ in range(spec["clients"])]
    for number, event in enumerate(opened):
        wire = request(spec, spec["targets"][number % len(spec["targets"])])
        await loop.create_connection(
            lambda wire=wire, event=event: Stream(wire, measured, event, arrived),  # type: ignore[misc]
            address.hostname,
            address.port,
        )
    await asyncio.gather(*(event.wait() for event in opened))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    with suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            for _ in range(spec["events"]):
                await arrived.acquire()
    return measured


async def _connect(spec: dict[str, Any]) -> list[Connection]:
    address, loop = urlsplit(spec["url"]), asyncio.get_running_loop()
    pairs = [await loop.create_connection(Connection, address.hostname, address.port) for _ in range(spec["clients"])]
    return [protocol for _, protocol in pairs]


def main() -> None:
    """Runs the way that the spec names."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    ways = {"poll": poll, "saturate": saturate, "follow": follow}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        measured = runner.run(ways[spec["way"]](spec))
    print(json.dumps(vars(measured)))


if __name__ == "__main__":
    main()
