"""Large files pass through a server process without filling its memory."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from app.core.db import Database
from app.core.settings import Settings
from app.local.ports import claim_port
from tests.api.server import new_project
from tests.waiting import eventually

LARGE_BYTES = 60_000_000
MAY_GROW_BYTES = 30_000_000


class Process:
    """A running API process and its memory as the kernel reports it."""

    def __init__(self, pid: int, client: OpenAI) -> None:
        self.client = client
        self._proc = Path(f"/proc/{pid}")

    def forget_peak(self) -> None:
        """Reset the peak to the current value."""
        (self._proc / "clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        status = dict(line.split(":", 1) for line in (self._proc / "status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) * 1024


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").is_success
    except httpx.TransportError:
        return False


@pytest.fixture
def process(api_settings: Settings, database: Database, tmp_path: Path) -> Iterator[Process]:
    """The server as `grouptune up` starts it, warmed up."""
    _, key = new_project(database, "default")
    port = claim_port("127.0.0.1", 0)
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "DATABASE_URL": str(api_settings.database_url),
        "GROUPTUNE_STATE_DIR": str(tmp_path / "state"),
        "GROUPTUNE_MODELS_DIR": str(api_settings.models_dir),
    }
    command = [sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            eventually(lambda: answers(url))
            client = OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
            small = client.files.create(file=b"{}", purpose="user_data")
            client.files.content(small.id)
            yield Process(running.pid, client)
        finally:
            running.terminate()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Write a file that is too large to fit into any buffer by accident."""
    path = tmp_path / "large"
    with path.open("wb") as out:
        for _ in range(LARGE_BYTES // 1_000_000):
            out.write(os.urandom(1_000_000))
    return path


def test_large_transfers_keep_memory_flat(process: Process, large: Path, tmp_path: Path) -> None:
    process.forget_peak()
    before = process.peak_bytes()
    whole = process.client.files.create(file=large, purpose="user_data")
    parts = process.client.uploads.upload_file_chunked(
        file=large, mime_type="application/octet-stream", purpose="user_data", part_size=20_000_000
    )
    assert parts.file is not None
    copy = tmp_path / "copy"
    with process.client.files.with_streaming_response.content(whole.id) as response:
        response.stream_to_file(copy)
    grown = process.peak_bytes() - before
    assert (whole.bytes, parts.file.bytes, copy.stat().st_size) == (LARGE_BYTES,) * 3
    assert grown < MAY_GROW_BYTES, f"the server's memory grew by {grown:,} bytes"
