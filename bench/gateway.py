"""Measures what the gateway adds to an inference engine: `python -m bench.gateway MODELS_DIR MODEL... [--json FILE]`.

The same prompts go to the embedded engine directly, as token ids, and through the API, as chats, by turns. One machine
runs everything: Postgres, Valkey, the API, its workers, the engine and the client. With a large model all processes but
the engine sleep during a request, and waking them is a part of what is measured; with a tiny one they stay awake.
"""

import argparse
import http.client
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from rich.console import Console

from app.core import migrate
from app.core.accounts.api_keys import ensure_bootstrap
from app.core.chat import tokenizer
from app.core.db import Database
from app.core.inference.sampling import Sampling
from app.local.ports import claim_port
from app.local.stack import Stack

MESSAGES: Final = [{"role": "user", "content": "17 + 48 ="}]
READY_SECONDS: Final = 120.0
STREAMS: Final = 8
IDLE_SECONDS: Final = 3.0
"""The server closes connections that are idle for five seconds."""


@dataclass(frozen=True)
class Overhead:
    """Milliseconds of one kind of request."""

    requests: int
    tokens: int
    """Per completion."""
    engine_p50: float
    gateway_p50: float
    added_p50: float
    """The median of the differences between a request through the gateway and the direct one before it."""
    added_p95: float
    added_per_token: float


@dataclass(frozen=True)
class Throughput:
    """Tokens a second of several streams at once: the medians of rounds by turns."""

    streams: int
    tokens: int
    """Per stream."""
    engine: float
    gateway: float
    share_lost: float


class Client:
    """One keep-alive connection; a failed one, and one that the server may have closed, is opened again."""

    def __init__(self, url: str, key: str | None) -> None:
        self._is_broken = False
        self._used_at = 0.0
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=READY_SECONDS)
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})

    def milliseconds(self, path: str, body: bytes) -> float:
        """Send a request, read its whole response, and return the time that it took."""
        if self._is_broken or time.monotonic() > self._used_at + IDLE_SECONDS:
            self._connection.close()
        self._is_broken = True
        started = time.perf_counter()
        self._connection.request("POST", path, body, self._headers)
        response = self._connection.getresponse()
        content = response.read()
        elapsed = 1000 * (time.perf_counter() - started)
        self._is_broken, self._used_at = False, time.monotonic()
        if response.status != 200 or b'"error"' in content:
            raise RuntimeError(f"{path} answered {response.status}: {content[:500].decode(errors='replace')}")
        return elapsed


def measure(
    engine: Callable[[int, bool], float], gateway: Callable[[int, bool], float], count: int, tokens: int
) -> Overhead:
    """Send `count` pairs of requests, streamed if they have more than one token."""
    is_stream = tokens > 1
    pairs = [(engine(tokens, is_stream), gateway(tokens, is_stream)) for _ in range(count + 5)][5:]
    added = sorted(through - direct for direct, through in pairs)
    return Overhead(
        requests=count,
        tokens=tokens,
        engine_p50=round(statistics.median(direct for direct, _ in pairs), 3),
        gateway_p50=round(statistics.median(through for _, through in pairs), 3),
        added_p50=round(statistics.median(added), 3),
        added_p95=round(added[int(0.95 * len(added))], 3),
        added_per_token=round(statistics.median(added) / tokens, 4),
    )


def throughput(send: Sequence[Callable[[int, int], object]], streams: int, tokens: int, rounds: int) -> Throughput:
    """Send `streams` streams at once to the engine and through the gateway, by turns. `send`: of both."""
    with ThreadPoolExecutor(streams) as threads:

        def one_round(stream: Callable[[int, int], object]) -> float:
            started = time.perf_counter()
            list(threads.map(partial(stream, tokens), range(streams)))
            return streams * tokens / (time.perf_counter() - started)

        pairs = [(one_round(send[0]), one_round(send[1])) for _ in range(rounds + 1)][1:]
    return Throughput(
        streams=streams,
        tokens=tokens,
        engine=round(statistics.median(direct for direct, _ in pairs), 1),
        gateway=round(statistics.median(through for _, through in pairs), 1),
        share_lost=round(statistics.median(1 - through / direct for direct, through in pairs), 4),
    )


@contextmanager
def engine_process(port: int, environment: dict[str, str]) -> Iterator[None]:
    """Run the embedded engine until the end of the block."""
    process = subprocess.Popen([sys.executable, "-m", "worker.serving", "--port", str(port)], env=environment)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def _bootstrap(database_url: str, existing: str | None) -> str:
    database = Database(database_url)
    try:
        with database.transaction() as session:
            return ensure_bootstrap(session, existing)
    finally:
        database.dispose()


def _until_ready(send: Callable[[], object]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            send()
        except (OSError, RuntimeError, http.client.HTTPException):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


def measure_model(
    model: str, directory: Path, engine_url: str, gateway_url: str, key: str, count: int
) -> Iterator[Overhead | Throughput]:
    """Yield the results of one model: single tokens, one stream, and several streams at once."""
    chat = tokenizer.load(directory / model)
    prompt = chat.prompt_ids(MESSAGES)
    engines = [Client(engine_url, None) for _ in range(STREAMS)]
    gateways = [Client(gateway_url, key) for _ in range(STREAMS)]

    def direct(tokens: int, is_stream: bool, client: int = 0) -> float:
        sampling = Sampling(temperature=0.0, logit_bias=dict.fromkeys(chat.end_ids, -100.0))
        body = sampling.to_body(prompt, tokens, chat.end_ids) | {"model": model, "stream": is_stream}
        return engines[client].milliseconds("/v1/completions", json.dumps(body).encode())

    def through(tokens: int, is_stream: bool, client: int = 0) -> float:
        body: dict[str, Any] = {"model": model, "messages": MESSAGES, "temperature": 0}
        body |= {"max_tokens": tokens, "stream": is_stream}
        body["logit_bias"] = {str(token): -100 for token in chat.end_ids}
        return gateways[client].milliseconds("/v1/chat/completions", json.dumps(body).encode())

    _until_ready(lambda: direct(1, False))
    _until_ready(lambda: through(1, False))
    yield measure(direct, through, count, 1)
    yield measure(direct, through, count // 5, 128)
    both = [lambda tokens, client: direct(tokens, True, client), lambda tokens, client: through(tokens, True, client)]
    yield throughput(both, STREAMS, 128, 5)


def main() -> None:
    """Run both, measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models_dir", type=Path)
    parser.add_argument("model", nargs="+")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, list[Overhead | Throughput]] = {}
    with ExitStack() as resources:
        state = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="gt-bench-")))
        port = claim_port("127.0.0.1", 0)
        engine_url = f"http://127.0.0.1:{port}"
        os.environ |= {
            "GROUPTUNE_MODELS_DIR": str(options.models_dir.absolute()),
            "GROUPTUNE_STATE_DIR": str(state),
            "GROUPTUNE_SERVE_URL": engine_url,
            "GROUPTUNE_MAX_REQUESTS_PER_MINUTE": "1000000",
        }
        resources.enter_context(engine_process(port, dict(os.environ)))
        stack = resources.enter_context(Stack(state, migrate=migrate.upgrade, bootstrap=_bootstrap, port=0))
        gateway_url = stack.base_url.removesuffix("/v1")
        for model in options.model:
            found = measure_model(model, options.models_dir, engine_url, gateway_url, stack.api_key, options.requests)
            results[model] = list(found)
    console = Console()
    for model, measured in results.items():
        console.print(model, [asdict(result) for result in measured])
    if options.json:
        figures = {model: [asdict(result) for result in measured] for model, measured in results.items()}
        report = {"processor": platform.processor(), "models": figures}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
