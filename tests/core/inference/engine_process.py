"""Embedded engines as processes of their own, and adapters of the base model `tiny` with probes."""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import httpx

from app.core.settings import Settings
from tests.forked import Program
from tests.http_server import free_port
from tests.waiting import eventually

REPOSITORY: Final = Path(__file__).parents[3]
KEY: Final = "key-of-the-engine"


class EngineServer(Protocol):
    """An embedded engine or a vLLM server."""

    @property
    def url(self) -> str: ...

    def loaded(self) -> list[str]:
        """Names of the adapters that it has loaded."""


@dataclass
class EngineProcess:
    """An embedded engine on a port of its own. `serve_dir` is shared with the gateway."""

    models_dir: Path
    state_dir: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further settings, such as `serve_max_sequences`."""
    port: int = field(default_factory=free_port)
    _process: Program | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.state_dir.mkdir(parents=True, exist_ok=True)
        own = {"state_dir": self.state_dir, "models_dir": self.models_dir, "serve_api_key": KEY, "serve_threads": 1}
        settings = {f"GROUPTUNE_{name.upper()}": str(value) for name, value in (own | dict(self.options)).items()}
        log = self.state_dir / f"engine-{self.port}.log"
        self._process = Program(
            "worker.serving",
            ["--port", self.port],
            directory=REPOSITORY,
            environment=os.environ | {"OMP_NUM_THREADS": "1"} | settings,
            stdout=log,
            stderr=log,
        )
        eventually(self._answers)

    def kill(self) -> None:
        """Kill it at once, and wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(60)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def loaded(self) -> list[str]:
        """Names of the adapters that it has loaded."""
        cards = httpx.get(f"{self.url}/v1/models", headers={"authorization": f"Bearer {KEY}"}).json()["data"]
        return [card["id"] for card in cards if card["parent"] is not None]

    def _answers(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/health").is_success
        return False


@contextmanager
def running(models_dir: Path, state_dir: Path, **options: Any) -> Iterator[EngineProcess]:
    """An engine that runs during the block."""
    engine = EngineProcess(models_dir, state_dir, options)
    engine.start()
    try:
        yield engine
    finally:
        engine.kill()


def settings_for(state_dir: Path, models_dir: Path, *engines: EngineProcess, **options: Any) -> Settings:
    """Settings of a gateway to these engines."""
    own = {"state_dir": state_dir, "models_dir": models_dir, "serve_api_key": KEY}
    return Settings.model_validate(own | {"serve_url": ",".join(engine.url for engine in engines)} | options)
