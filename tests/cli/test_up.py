"""`grouptune up` as a process: what it prints, what Ctrl-C leaves, what the next start finds."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openai import OpenAI

from tests.local.conftest import assert_all_end, family, state_dir
from tests.tiny_model import write_rows

ROOT = Path(__file__).parents[2]

__all__ = ["state_dir"]


@contextmanager
def up(state: Path) -> Iterator["tuple[subprocess.Popen[str], OpenAI]"]:
    """A started installation and a client of it; ends with Ctrl-C."""
    command = [sys.executable, "-m", "app.cli", "up", "--state-dir", str(state)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            base_url = process.stdout.readline().strip()
            connection = json.loads((state / "connection.json").read_text())
            assert connection["base_url"] == base_url
            assert base_url.endswith("/v1")
            yield process, OpenAI(base_url=base_url, api_key=connection["api_key"])
        finally:
            process.send_signal(signal.SIGINT)
            said = process.stderr.read()
            assert process.wait(30) == 0, said
            assert "Grouptune is up." in said
            assert said.endswith("Stopped.\n")


def test_ctrl_c_stops_all_of_it_and_a_second_start_finds_its_data(state_dir: Path, tmp_path: Path) -> None:
    with up(state_dir) as (process, client):
        assert (state_dir / "connection.json").stat().st_mode & 0o777 == 0o600
        file = client.files.create(file=write_rows(tmp_path / "rows.jsonl", 4), purpose="fine-tune")
        everyone = family(process.pid)
    assert len(everyone) > 6
    assert_all_end(everyone)
    assert not (state_dir / "connection.json").exists()
    with up(state_dir) as (_, client):
        assert client.files.retrieve(file.id).filename == "rows.jsonl"
        assert client.files.content(file.id).read() == (tmp_path / "rows.jsonl").read_bytes()
