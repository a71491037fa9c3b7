"""Measures what the gateway adds to an inference engine: `python -m bench.gateway MODELS_DIR MODEL... [--json FILE]`.

The same prompts go to the embedded engine directly, as token ids, and through the API, as chats, by turns. One machine
runs everything: Postgres, Valkey, the API, its workers, the engine and the client. With a large model all processes but
the engine sleep during a request, and waking them is a part of what is measured; with a tiny one they stay awake.

`--peer PYTHON`, of an environment that has `litellm[proxy]`, also sends them through LiteLLM's proxy. It has a master
key, but no database, limits or usage, and it does not render the chat: it passes the token ids on.

`--engine URL` measures with an engine that runs already, such as a vLLM without a key that serves the one model.
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
PEER_KEY: Final = "sk-peer"

Send = Callable[[int, bool, int], float]
"""Sends a request for a number of tokens, streamed or not, over one of the connections; returns its milliseconds."""


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
    peer_added_p50: float | None = None


@dataclass(frozen=True)
class Throughput:
    """Tokens a second of several streams at once: the medians of rounds by turns."""

    streams: int
    tokens: int
    """Per stream."""
    engine: float
    gateway: float
    share_lost: float
    peer_share_lost: float | None = None


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


def measure(routes: Sequence[Send], count: int, tokens: int) -> Overhead:
    """Send `count` requests by each route in turn, streamed if they have more than one token.

    `routes`: to the engine, through the gateway and, if it runs, through the peer.
    """
    turns = [[send(tokens, tokens > 1, 0) for send in routes] for _ in range(count + 5)][5:]
    engine, gateway, *peers = zip(*turns, strict=True)
    added = sorted(_added(engine, gateway))
    return Overhead(
        requests=count,
        tokens=tokens,
        engine_p50=round(statistics.median(engine), 3),
        gateway_p50=round(statistics.median(gateway), 3),
        added_p50=round(statistics.median(added), 3),
        added_p95=round(added[int(0.95 * len(added))], 3),
        added_per_token=round(statistics.median(added) / tokens, 4),
        peer_added_p50=round(statistics.median(_added(engine, peers[0])), 3) if peers else None,
    )


def _added(engine: Sequence[float], through: Sequence[float]) -> list[float]:
    return [behind - direct for direct, behind in zip(engine, through, strict=True)]


def throughput(routes: Sequence[Send], streams: int, tokens: int, rounds: int) -> Throughput:
    """Send `streams` streams at once by each route in turn. `routes`: see `measure`."""
    with ThreadPoolExecutor(streams) as threads:

        def one_round(send: Send) -> float:
            started = time.perf_counter()
            list(threads.map(partial(send, tokens, True), range(streams)))
            return streams * tokens / (time.perf_counter() - started)

        turns = [[one_round(send) for send in routes] for _ in range(rounds + 1)][1:]
    engine, gateway, *peers = zip(*turns, strict=True)
    return Throughput(
        streams=streams,
        tokens=tokens,
        engine=round(statistics.median(engine), 1),
        gateway=round(statistics.median(gateway), 1),
        share_lost=_share_lost(engine, gateway),
        peer_share_lost=_share_lost(engine, peers[0]) if peers else None,
    )


def _share_lost(engine: Sequence[float], through: Sequence[float]) -> float:
    return round(statistics.median(1 - behind / direct for direct, behind in zip(engine, through, strict=True)), 4)


@contextmanager
def running(*command: str | Path) -> Iterator[None]:
    """Run a server until the end of the block."""
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def peer_process(python: Path, state: Path, engine_url: str, models: Sequence[str]) -> Iterator[str]:
    """Run LiteLLM's proxy before the engine until the end of the block, and yield its URL."""
    port = claim_port("127.0.0.1", 0)
    engine = {"api_base": f"{engine_url}/v1", "api_key": "none"}
    config = {
        "model_list": [
            {"model_name": model, "litellm_params": {"model": f"text-completion-openai/{model}"} | engine}
            for model in models
        ],
        "general_settings": {"master_key": PEER_KEY},
    }
    path = state / "litellm.json"  # JSON is YAML, too
    path.write_text(json.dumps(config), encoding="utf-8")
    with running(python.with_name("litellm"), "--config", str(path), "--host", "127.0.0.1", "--port", str(port)):
        yield f"http://127.0.0.1:{port}"


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
    model: str, directory: Path, engine_url: str, gateway_url: str, key: str, peer_url: str | None, count: int
) -> Iterator[Overhead | Throughput]:
    """Yield the results of one model: single tokens, one stream, and several streams at once."""
    chat = tokenizer.load(directory / model)
    sampling = Sampling(temperature=0.0, logit_bias=dict.fromkeys(chat.end_ids, -100.0))
    question: dict[str, Any] = {"model": model, "messages": MESSAGES, "temperature": 0}
    question["logit_bias"] = {str(token): -100 for token in chat.end_ids}

    prompt = chat.prompt_ids(MESSAGES)

    def completions(url: str, key: str | None) -> Send:
        def body(tokens: int) -> dict[str, Any]:
            return sampling.to_body(prompt, tokens, chat.end_ids) | {"model": model}

        return _sender(url, key, "/v1/completions", body)

    routes = [
        completions(engine_url, None),
        _sender(gateway_url, key, "/v1/chat/completions", lambda tokens: question | {"max_tokens": tokens}),
    ]
    if peer_url is not None:
        routes.append(completions(peer_url, PEER_KEY))
    for send in routes:
        _until_ready(partial(send, 1, False, 0))
    yield measure(routes, count, 1)
    yield measure(routes, count // 5, 128)
    yield throughput(routes, STREAMS, 128, 5)


def _sender(url: str, key: str | None, path: str, body: Callable[[int], dict[str, Any]]) -> Send:
    """`body` makes the request for a number of tokens."""
    clients = [Client(url, key) for _ in range(STREAMS)]

    def send(tokens: int, is_stream: bool, client: int) -> float:
        return clients[client].milliseconds(path, json.dumps(body(tokens) | {"stream": is_stream}).encode())

    return send


def main() -> None:
    """Run both, measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models_dir", type=Path)
    parser.add_argument("model", nargs="+")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--engine", metavar="URL")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, list[Overhead | Throughput]] = {}
    with ExitStack() as resources:
        state = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="gt-bench-")))
        engine_url: str = options.engine or f"http://127.0.0.1:{claim_port('127.0.0.1', 0)}"
        os.environ |= {
            "GROUPTUNE_MODELS_DIR": str(options.models_dir.absolute()),
            "GROUPTUNE_STATE_DIR": str(state),
            "GROUPTUNE_SERVE_URL": engine_url,
            "GROUPTUNE_MAX_REQUESTS_PER_MINUTE": "1000000",
        }
        if not options.engine:
            port = str(urlsplit(engine_url).port)
            resources.enter_context(running(sys.executable, "-m", "worker.serving", "--port", port))
        peer_url = None
        if options.peer:
            peer_url = resources.enter_context(peer_process(options.peer, state, engine_url, options.model))
        stack = resources.enter_context(Stack(state, migrate=migrate.upgrade, bootstrap=_bootstrap, port=0))
        gateway_url = stack.base_url.removesuffix("/v1")
        for model in options.model:
            urls = engine_url, gateway_url, stack.api_key, peer_url
            results[model] = list(measure_model(model, options.models_dir, *urls, options.requests))
    console = Console()
    for model, measured in results.items():
        console.print(model, [asdict(result) for result in measured])
    if options.json:
        figures = {model: [asdict(result) for result in measured] for model, measured in results.items()}
        report = {"processor": platform.processor(), "models": figures}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
