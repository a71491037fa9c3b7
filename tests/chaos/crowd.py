"""Many clients in one cheap process: plain HTTP over asyncio. Full clients would cost more than the server."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Responses:
    """The responses that a crowd received."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    streams: int = 0
    """Number of streams that stayed open to the end."""
    events: int = 0


@dataclass(frozen=True)
class Crowd:
    """Pollers at 1 Hz and watchers of one job, spread evenly over the API's processes."""

    ports: tuple[int, ...]
    key: str
    job_id: str
    pollers: int
    watchers: int

    def run(self, seconds: float) -> Responses:
        """Send requests for this time."""
        return asyncio.run(self._all(seconds))

    async def _all(self, seconds: float) -> Responses:
        responses = Responses()
        end = time.monotonic() + seconds
        watching = [asyncio.create_task(self._watch(responses, end, index)) for index in range(self.watchers)]
        await asyncio.gather(*(self._poll(responses, end, index) for index in range(self.pollers)))
        await asyncio.gather(*watching)
        return responses

    def _request(self, path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {self.key}\r\n\r\n".encode()

    async def _poll(self, responses: Responses, end: float, index: int) -> None:
        await asyncio.sleep(index / self.pollers)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[index % len(self.ports)])
        due = time.monotonic()
        while due < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            start = time.monotonic()
            writer.write(self._request(f"/v1/fine_tuning/jobs/{self.job_id}"))
            status, length = await _head(reader)
            await reader.readexactly(length)
            responses.seconds.append(time.monotonic() - start)
            responses.statuses[status] += 1
            due = max(due + 1, start)
        writer.close()

    async def _watch(self, responses: Responses, end: float, index: int) -> None:
        await asyncio.sleep(index / self.watchers)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[index % len(self.ports)])
        writer.write(self._request(f"/v1/fine_tuning/jobs/{self.job_id}/stream"))
        status, _ = await _head(reader)
        responses.statuses[status] += 1
        while (left := end - time.monotonic()) > 0:
            try:
                line = await asyncio.wait_for(reader.readline(), left)
            except TimeoutError:
                break
            assert line, "the server closed the stream"
            responses.events += line.startswith(b"id:")
        responses.streams += 1
        writer.close()


async def _head(reader: asyncio.StreamReader) -> tuple[int, int]:
    """Read the head of a response; return its status and content length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    lengths = [int(line.partition(":")[2]) for line in head if line.startswith("content-length:")]
    return int(head[0].split()[1]), sum(lengths)
