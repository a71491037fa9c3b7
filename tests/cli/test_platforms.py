"""The command line on macOS and Windows: clients work, and server commands say where they run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pyarrow
import pytest
from pyarrow import parquet

from tests.cli.conftest import ROOT
from tests.tiny_model import write_rows

PLATFORMS: Final = {"darwin": "on macOS, run it in Docker", "win32": "on Windows, run it in WSL or Docker"}


def grouptune(platform: str, *words: str, **changed: str) -> "subprocess.CompletedProcess[str]":
    """Run `grouptune WORDS...` as on another platform."""
    argv = [sys.executable, "-m", "tests.other_platform", platform, *words]
    return subprocess.run(argv, cwd=ROOT, env=os.environ | changed, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_server_commands_need_linux(platform: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    refused = grouptune(platform, "up", "--state-dir", str(state))
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert line.startswith("Error: The service needs Linux: ")
    assert PLATFORMS[platform] in line
    assert not state.exists()


@pytest.mark.parametrize("platform", PLATFORMS)
def test_client_commands_work_everywhere(platform: str, stack: Any, tmp_path: Path) -> None:
    server = {"GROUPTUNE_URL": stack.base_url, "GROUPTUNE_API_KEY": stack.api_key}
    rows = write_rows(tmp_path / "rows.jsonl", 2)
    uploaded = grouptune(platform, "files", "upload", str(rows), "--json", **server)
    assert json.loads(uploaded.stdout)["filename"] == "rows.jsonl", uploaded.stderr


def test_parquet_is_converted_without_fcntl(tmp_path: Path) -> None:
    """A Parquet file needs a scratch directory, which fcntl locks on Linux."""
    parquet.write_table(pyarrow.table({"prompt": ["1 + 1"], "completion": ["2"]}), tmp_path / "table.parquet")
    target = tmp_path / "rows.jsonl"
    converted = grouptune("win32", "files", "convert", str(tmp_path / "table.parquet"), str(target))
    assert converted.returncode == 0, converted.stderr
    assert json.loads(target.read_text()) == {"prompt": "1 + 1", "completion": "2"}
