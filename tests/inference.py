"""The embedded inference engine as a process of its own, for tests of what uses it."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests import forked
from tests.waiting import eventually

ROOT = Path(__file__).parents[1]


@contextmanager
def embedded_engine(models_dir: Path, state_dir: Path) -> Iterator[str]:
    """Run the engine on a free port; yield its URL. The adapters that it loads lie in `state_dir`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    state_dir.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "GROUPTUNE_MODELS_DIR": str(models_dir),
        "GROUPTUNE_STATE_DIR": str(state_dir),
        "GROUPTUNE_SERVE_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    out, err = state_dir / "serve.out", state_dir / "serve.err"
    url = f"http://127.0.0.1:{port}"
    words = ("--port", port)
    with forked.Program(
        "worker.serving", words, directory=ROOT, environment=environment, stdout=out, stderr=err
    ) as engine:
        try:
            eventually(lambda: _answers(url) or engine.returncode is not None)
            assert engine.returncode is None, err.read_text()
            yield url
        finally:
            engine.kill()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).is_success
    except httpx.TransportError:
        return False
