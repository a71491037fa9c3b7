"""Measures what the gateway adds to an inference engine: `python -m bench.gateway MODELS_DIR MODEL [--json FILE]`.

The same prompts go to the embedded engine directly, as token ids, and through the API, as chats, by turns. One machine
runs everything: Postgres, Valkey, the API, its workers, the engine and the client.
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from rich.console import Console

from app.core import migrate
from app.core.accounts.api_keys import ensure_bootstrap
from app.core.chat import tokenizer
from app.core.db import Database
from app.core.inference.sampling import Sampling
from app.local.stack import Stack, claim_port

MESSAGES: Final = [{"role": "user", "content": "17 + 48 ="}]
READY_SECONDS: Final = 120.0


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


class Client:
    """One keep-alive connection; a failed one is opened again."""

    def __init__(self, url: str, key: str | None) -> None:
        self._is_broken = False
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=READY_SECONDS)
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})

    def milliseconds(self, path: str, body: bytes) -> float:
        """Send a request, read its whole response, and return the time that it took."""
        if self._is_broken:
            self._connection.close()
        self._is_broken = True
        started = time.perf_counter()
        self._connection.request("POST", path, body, self._headers)
        response = self._connection.getresponse()
        content = response.read()
        elapsed = 1000 * (time.perf_counter() - started)
        self._is_broken = False
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


def main() -> None:
    """Run both, measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models_dir", type=Path)
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chat = tokenizer.load(options.models_dir / options.model)
    prompt = chat.prompt_ids(MESSAGES)
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
        stack = resources.enter_context(Stack(state, migrate=migrate.upgrade, bootstrap=_bootstrap))

        def direct(tokens: int, is_stream: bool) -> float:
            sampling = Sampling(temperature=0.0, logit_bias=dict.fromkeys(chat.end_ids, -100.0))
            body = sampling.to_body(prompt, tokens, chat.end_ids) | {"model": options.model, "stream": is_stream}
            return engine.milliseconds("/v1/completions", json.dumps(body).encode())

        def through(tokens: int, is_stream: bool) -> float:
            body: dict[str, Any] = {"model": options.model, "messages": MESSAGES, "temperature": 0}
            body |= {"max_tokens": tokens, "stream": is_stream}
            body["logit_bias"] = {str(token): -100 for token in chat.end_ids}
            return gateway.milliseconds("/v1/chat/completions", json.dumps(body).encode())

        engine, gateway = Client(engine_url, None), Client(stack.base_url.removesuffix("/v1"), stack.api_key)
        _until_ready(lambda: Client(engine_url, None).milliseconds("/v1/completions", _one(prompt, options.model)))
        _until_ready(lambda: through(1, False))
        results = [measure(direct, through, options.requests, 1), measure(direct, through, options.requests // 5, 128)]
    console = Console()
    for result in results:
        console.print(asdict(result))
    if options.json:
        report = {"processor": platform.processor(), "model": options.model, "results": [asdict(r) for r in results]}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def _one(prompt: tuple[int, ...], model: str) -> bytes:
    return json.dumps(Sampling().to_body(prompt, 1, ()) | {"model": model}).encode()


if __name__ == "__main__":
    main()
