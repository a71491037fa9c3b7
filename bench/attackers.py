"""Clients that attack a server on the loopback: `python -m bench.attackers SPEC_FILE`. Prints what they received.

Each client repeats for `seconds`: open a connection, send the next of the spec's requests, read the response for at
most `patience` seconds, hang up, and wait for `pause` seconds.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop


def wire(host: str, request: dict[str, Any]) -> bytes:
    """Encode a request: `method`, `path`, `headers`, and `body` (JSON) or `body_file`."""
    if "body_file" in request:
        body = Path(request["body_file"]).read_bytes()
    else:
        body = json.dumps(request["body"]).encode() if "body" in request else b""
    lines = [f"{request['method']} {request['path']} HTTP/1.1", f"host: {host}", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in request["headers"].items()]
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


async def attack(spec: dict[str, Any]) -> Counter[str]:
    """Run all clients; return how many requests ended with each status, with a hang-up or without a connection."""
    address = urlsplit(spec["url"])
    requests = [wire(address.netloc, request) for request in spec["requests"]]
    received: Counter[str] = Counter()
    until = time.monotonic() + spec["seconds"]

    async def once(request: bytes) -> str:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            writer.write(request)
            with suppress(ConnectionError):  # the server may answer before it has read the body
                await writer.drain()
            return (await reader.readline()).split(b" ")[1].decode()
        finally:
            writer.close()

    async def client(number: int) -> None:
        turn = number
        while time.monotonic() < until:
            try:
                async with asyncio.timeout(min(spec["patience"], until - time.monotonic() + 1)):
                    status = await once(requests[turn % len(requests)])
            except TimeoutError:
                status = "hung up"
            except (OSError, IndexError):
                status = "no response"
            received[status] += 1
            turn += spec["clients"]
            await asyncio.sleep(spec["pause"])

    await asyncio.gather(*(client(number) for number in range(spec["clients"])))
    return received


def main() -> None:
    """Run the attack that the spec describes."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(attack(spec))))


if __name__ == "__main__":
    main()
