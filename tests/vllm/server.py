"""A real vLLM on the CPU, from an environment of its own (`make vllm` installs it)."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from app.local.ports import claim_port
from tests.waiting import eventually

KEY: Final = "key-of-the-engine"
START_SECONDS: Final = 600.0
MAX_LENGTH: Final = 512
MAX_RANK: Final = 16


@dataclass
class VllmServer:
    """vLLM with one base model."""

    base: Path
    log: Path
    port: int = field(default_factory=lambda: claim_port("127.0.0.1", 0))
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers: a minute or two."""
        words = [
            *("--host", "127.0.0.1", "--port", str(self.port), "--api-key", KEY),
            *("--model", str(self.base), "--served-model-name", self.base.name, "--generation-config", "vllm"),
            *("--enable-lora", "--max-lora-rank", str(MAX_RANK), "--max-loras", "4", "--max-cpu-loras", "8"),
            *("--dtype", "bfloat16", "--enforce-eager", "--max-model-len", str(MAX_LENGTH), "--max-num-seqs", "16"),
        ]
        environment = {
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_SERVER_DEV_MODE": "1",  # --enable-sleep-mode is refused on a CPU
            "HF_HUB_OFFLINE": "1",
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [os.environ["GROUPTUNE_VLLM_PYTHON"], "-m", "vllm.entrypoints.openai.api_server", *words],
                env=os.environ | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(self._answers, START_SECONDS)

    def kill(self) -> None:
        """Kill the server and its workers."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(60)

    def loaded(self) -> list[str]:
        """Names of the adapters that it has loaded."""
        cards = httpx.get(f"{self.url}/v1/models", headers={"authorization": f"Bearer {KEY}"}).json()["data"]
        return [card["id"] for card in cards if card["parent"] is not None]

    def is_idle(self) -> bool:
        """Return whether no sequence but that of this question runs.

        An abort is no step of the engine, and only steps update the gauge, so the question makes one.
        """
        body = {"model": self.base.name, "prompt": [1], "max_tokens": 1}
        answer = httpx.post(
            f"{self.url}/v1/completions", json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=60
        )
        answer.raise_for_status()
        return self.metric("num_requests_running") == 0

    def metric(self, name: str) -> float:
        """Return a gauge or counter of vLLM's own metrics. It may lag behind the answers by a step."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"vllm:{name}{{"))

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/health").is_success
        return False


@contextmanager
def running(base: Path, log: Path) -> Iterator[VllmServer]:
    """A vLLM server that runs during the block."""
    server = VllmServer(base, log)
    try:
        server.start()
        yield server
    finally:
        server.kill()
