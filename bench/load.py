"""A load generator for HTTP/1.1 on the loopback: `python -m bench.load SPEC_FILE`. Prints its measurements as JSON.

It is a hundred times cheaper than a client library, so that on two cores it measures the server and not itself.
Latency counts from the moment when a request was *due*, so a stall of the server also counts for the requests that had
to wait for it.
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

END_OF_HEADERS = b"\r\n\r\n"


@dataclass
class Measurement:
    """Latencies in milliseconds, and the number of requests without a 2xx response."""

    milliseconds: list[float] = field(default_factory=list)
    errors: int = 0
    first_error: str | None = None
    seconds: float = 0.0

    def add_error(self, reason: str) -> None:
        self.errors += 1
        self.first_error = self.first_error or reason[:300]


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._body_at = -1
        self._length = 0
        self._response: asyncio.Future[tuple[int, bytes]] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Send a request and return the status and body of its response. Raises ConnectionError."""
        if self.transport is None or self.transport.is_closing():
            raise ConnectionError("the connection is closed")
        self._response = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._response

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._body_at < 0:
            end = self._buffer.find(END_OF_HEADERS)
            if end < 0:
                return
            self._body_at = end + len(END_OF_HEADERS)
            headers = bytes(self._buffer[:end]).lower()
            start = headers.find(b"content-length:")
            self._length = int(headers[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
        if len(self._buffer) < self._body_at + self._length or self._response is None:
            return
        status = int(self._buffer[9:12])
        body = bytes(self._buffer[self._body_at : self._body_at + self._length])
        self._buffer.clear()
        self._body_at = -1
        if not self._response.done():
            self._response.set_result((status, body))

    def connection_lost(self, error: Exception | None) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_exception(ConnectionError(str(error or "the server closed the connection")))


class Stream(asyncio.Protocol):
    """A reader of server-sent events. Their data contain the time at which they were written (`sent`)."""

    def __init__(
        self, request: bytes, measured: Measurement, opened: asyncio.Event, arrived: asyncio.Semaphore
    ) -> None:
        """`opened` is set when the stream is open; `arrived` is released for every event."""
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
    """Encode one request. `target`: the path, and for a request other than GET the method and the body."""
    address = urlsplit(spec["url"])
    body = json.dumps(target["body"]).encode() if "body" in target else b""
    lines = [f"{target.get('method', 'GET')} {target['path']} HTTP/1.1", f"host: {address.netloc}"]
    lines += [f"{name}: {value}" for name, value in spec["headers"].items()]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join(lines).encode() + END_OF_HEADERS + body


async def _send(connection: Connection, wire: bytes, due: float, measured: Measurement) -> None:
    try:
        status, body = await connection.send(wire)
    except ConnectionError as error:
        measured.add_error(str(error))
        return
    measured.milliseconds.append((time.perf_counter() - due) * 1000)
    if not 200 <= status < 300:
        measured.add_error(f"{status}: {body.decode(errors='replace')}")


async def poll(spec: dict[str, Any]) -> Measurement:
    """For `seconds`, let `clients` clients each send one request per second, spread evenly over the second."""
    measured, connections = Measurement(), await _connect(spec)
    begun = time.perf_counter() + 0.5

    async def poller(number: int, connection: Connection) -> None:
        wire = request(spec, spec["targets"][number % len(spec["targets"])])
        for second in range(spec["seconds"]):
            due = begun + second + number / len(connections)
            await asyncio.sleep(due - time.perf_counter())
            await _send(connection, wire, due, measured)

    await asyncio.gather(*(poller(number, connection) for number, connection in enumerate(connections)))
    measured.seconds = time.perf_counter() - begun
    return measured


async def saturate(spec: dict[str, Any]) -> Measurement:
    """For `seconds`, let `clients` clients each send the next request as soon as they have a response."""
    measured, connections = Measurement(), await _connect(spec)
    begun = time.perf_counter()

    async def client(number: int, connection: Connection) -> None:
        turn = number
        while (due := time.perf_counter()) - begun < spec["seconds"]:
            await _send(connection, request(spec, spec["targets"][turn % len(spec["targets"])]), due, measured)
            turn += len(connections)

    await asyncio.gather(*(client(number, connection) for number, connection in enumerate(connections)))
    measured.seconds = time.perf_counter() - begun
    return measured


async def follow(spec: dict[str, Any]) -> Measurement:
    """Open `clients` streams, print `ready` when all are open, and read until `events` events have arrived.

    The caller closes standard input after the last event. Events that are missing a second later count as lost.
    """
    measured, arrived = Measurement(), asyncio.Semaphore(0)
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
    """Run the mode that the spec names."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    modes = {"poll": poll, "saturate": saturate, "follow": follow}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        measured = runner.run(modes[spec["mode"]](spec))
    print(json.dumps(vars(measured)))


if __name__ == "__main__":
    main()
