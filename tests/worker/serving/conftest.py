"""The tiny models of the training tests, and an engine that serves two of them over real HTTP."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from app.core.settings import Settings
from tests import tiny_model
from tests.waiting import eventually
from tests.worker.serving.adapters import LORAS, write_adapter
from tests.worker.training.conftest import _one_deterministic_thread, model_directory
from worker.serving.server import Server

LONG_CONTEXT = 16_384
__all__ = ["_one_deterministic_thread", "model_directory"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignores warnings that peft 0.21 causes with transformers 5."""
    for item in items:
        if item.nodeid.startswith("tests/worker/serving/"):
            item.add_marker(
                pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
            )
            item.add_marker(pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys:RuntimeWarning"))


@dataclass
class RunningEngine:
    """An engine with its HTTP client."""

    server: Server
    http: httpx.Client
    url: str

    def complete(self, model: str = "tiny", **options: Any) -> Any:
        """Return the response of a completion; greedy and of at most 8 tokens by default."""
        body = {"model": model, "prompt": [5, 6, 7], "max_tokens": 8, "temperature": 0.0, **options}
        return self.http.post("/v1/completions", json=body)

    def load(self, name: str, path: Path, base: str = "tiny") -> Any:
        body = {"lora_name": name, "lora_path": str(path), "base_model_name": base}
        return self.http.post("/v1/load_lora_adapter", json=body)

    @property
    def is_idle(self) -> bool:
        """Whether no sequence is decoded and none waits."""
        batch = self.server.engine._batch
        return not self.server.engine._waiting and (batch is None or batch.is_empty)


@contextmanager
def running(settings: Settings, on_death: Callable[[], None] = lambda: None) -> Iterator[RunningEngine]:
    """Run an engine on a free port."""
    server = Server(settings, on_death)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        http = uvicorn.Server(uvicorn.Config(server.app, log_config=None, timeout_graceful_shutdown=2))
        thread = threading.Thread(target=http.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            eventually(lambda: http.started)
            with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
                yield RunningEngine(server, client, url)
        finally:
            http.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def serving_dirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`models/` with two bases, `other` with a long context, and `serving/adapters/` with an adapter of each kind."""
    root = tmp_path_factory.mktemp("serving")
    for seed, (name, context) in enumerate({"tiny": 512, "other": LONG_CONTEXT}.items()):
        tiny_model.build(root / "models" / name, seed=seed, spread=0.3, context=context)
    for name, lora in LORAS.items():
        write_adapter(root / "serving" / "adapters" / name, root / "models" / "tiny", lora)
    return root


@pytest.fixture(scope="session")
def make_settings(serving_dirs: Path) -> Callable[..., Settings]:
    """Returns the settings of an engine for `serving_dirs`."""

    def make(**options: Any) -> Settings:
        directories = {"models_dir": serving_dirs / "models", "state_dir": serving_dirs}
        return Settings(**{**directories, "serve_threads": 1, **options})

    return make


@pytest.fixture(scope="module")
def engine(make_settings: Callable[..., Settings]) -> Iterator[RunningEngine]:
    """An engine that the tests of a module share."""
    with running(make_settings()) as found:
        yield found
