"""Many clients in one cheap process: plain HTTP over asyncio; a whole client each would cost more than the server."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Heard:
    """What a crowd was answered."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    streams: int = 0
    """That were open to the end."""
    events: int = 0


@dataclass(frozen=True)
class Crowd:
    """Pollers at 1 Hz and watchers of one job, spread evenly over the API's processes."""

    ports: tuple[int, ...]
    key: str
    job_id: str
    pollers: int
    watchers: int

    def go(self, seconds: float) -> Heard:
        """Asks for so long."""
        return asyncio.run(self._all(seconds))

    async def _all(self, seconds: float) -> Heard:
        heard = Heard()
        over = time.monotonic() + seconds
        watching = [asyncio.create_task(self._watch(heard, over, place)) for place in range(self.watchers)]
        await asyncio.gather(*(self._poll(heard, over, place) for place in range(self.pollers)))
        await asyncio.gather(*watching)
        return heard

    def _request(self, path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {self.key}\r\n\r\n".encode()

    async def _poll(self, heard: Heard, over: float, place: int) -> None:
        await asyncio.sleep(place / self.pollers)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[place % len(self.ports)])
        due = time.monotonic()
        while due < over:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            begun = time.monotonic()
            writer.write(self._request(f"/v1/fine_tuning/jobs/{self.job_id}"))
            status, length = await _head(reader)
            await reader.readexactly(length)
            heard.seconds.append(time.monotonic() - begun)
            heard.statuses[status] += 1
            due = max(due + 1, begun)
        writer.close()

    async def _watch(self, heard: Heard, over: float, place: int) -> None:
        await asyncio.sleep(place / self.watchers)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[place % len(self.ports)])
        writer.write(self._request(f"/v1/fine_tuning/jobs/{self.job_id}/stream"))
        status, _ = await _head(reader)
        heard.statuses[status] += 1
        while (left := over - time.monotonic()) > 0:
            try:
                line = await asyncio.wait_for(reader.readline(), left)
            except TimeoutError:
                break
            assert line, "the stream was cut"
            heard.events += line.startswith(b"id:")
        heard.streams += 1
        writer.close()


async def _head(reader: asyncio.StreamReader) -> tuple[int, int]:
    """Status and length of an answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    lengths = [int(line.partition(":")[2]) for line in head if line.startswith("content-length:")]
    return int(head[0].split()[1]), sum(lengths)
