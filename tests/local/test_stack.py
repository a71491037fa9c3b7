"""The whole stack with the real API and workers."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from app.core import migrate
from app.core.accounts.api_keys import ensure_bootstrap
from app.core.db import Database
from app.local.errors import LocalStackError
from app.local.stack import Stack
from tests.local.conftest import assert_all_end, family
from tests.processes import command_line
from tests.tiny_model import write_rows
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]


def bootstrap(database_url: str, existing_key: str | None) -> str:
    database = Database(database_url)
    try:
        with database.transaction() as session:
            return ensure_bootstrap(session, existing_key)
    finally:
        database.dispose()


def test_stack_serves_and_cleans_up(used_state_dir: Path) -> None:
    connection_path = used_state_dir / "connection.json"
    others = family(os.getpid())
    with Stack(used_state_dir, migrate=migrate.upgrade, bootstrap=bootstrap, port=0) as stack:
        connection = json.loads(connection_path.read_text())
        answer = httpx.get(
            f"{connection['base_url']}/files",
            headers={"Authorization": f"Bearer {connection['api_key']}"},
            trust_env=False,
        )
        assert (answer.status_code, connection["pid"]) == (200, os.getpid())
        assert int(answer.headers["x-ratelimit-remaining-requests"]) > 0  # the rate limit uses the embedded Valkey
        assert connection_path.stat().st_mode & 0o777 == 0o600
        assert_engine_restarts(stack)
        processes = [process for process in family(os.getpid()) if process not in others]
    assert len(processes) > 6
    assert_all_end(processes)
    assert not connection_path.exists()
    key_path = used_state_dir / "api_key"
    assert (key_path.read_text().strip(), key_path.stat().st_mode & 0o777) == (stack.api_key, 0o600)
    secrets_path = used_state_dir / "secret_keys"
    assert (len(secrets_path.read_text().strip()), secrets_path.stat().st_mode & 0o777) == (44, 0o600)


def assert_engine_restarts(stack: Stack) -> None:
    """The inference engine needs the stack's key, and a killed one is replaced at the same address."""
    url = stack.inference["GROUPTUNE_SERVE_URL"]
    key_path = stack.state_dir / "serve_key"
    headers = {"Authorization": f"Bearer {key_path.read_text().strip()}"}
    assert key_path.stat().st_mode & 0o777 == 0o600

    def answers(**options: Any) -> int:
        try:
            return httpx.get(f"{url}/v1/models", trust_env=False, **options).status_code
        except httpx.TransportError:
            return 0

    eventually(lambda: answers(headers=headers) == 200)
    assert answers() == 401
    [engine] = [each for each in family(os.getpid()) if "worker.serving" in command_line(each)]
    assert engine.memory_info().rss < 80 * 1024**2, "torch is loaded with the first request"
    engine.kill()
    eventually(lambda: answers(headers=headers) == 200)
    assert engine not in family(os.getpid())


def test_kill_during_a_job_leaves_no_process(
    state_dir: Path, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROUPTUNE_MODELS_DIR", str(tiny_models))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [sys.executable, "-m", "app.cli", "up", "--state-dir", str(state_dir)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as up:
        assert up.stdout is not None
        client = OpenAI(base_url=up.stdout.readline().strip(), api_key=(state_dir / "api_key").read_text().strip())
        start_endless_job(client, tmp_path)
        everyone = family(up.pid)[1:]
        words = [" ".join(command_line(process)) for process in everyone]
        up.kill()
    for part in (
        "guard.py",
        "postgres",
        "valkey-server",
        "uvicorn",
        "worker.serving",
        "-Q train",
        "-Q default",
        "worker.training",
        "math",
    ):
        assert any(part in line for line in words), (part, words)
    assert_all_end(everyone)


def start_endless_job(client: OpenAI, directory: Path) -> None:
    """Start a job whose grader uses processes; returns once its trainer has made a step."""
    file = client.files.create(file=write_rows(directory / "rows.jsonl", 400), purpose="fine-tune")
    grader = {"type": "math", "reference": "\\frac{ {{item.reference_answer}} }{7}"}
    settings = {"grader": grader, "sampling": {"max_tokens": 8}, "hyperparameters": {"n_epochs": 50, "batch_size": 2}}
    method: Any = {"type": "gft", "gft": settings}
    job = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, method=method)
    eventually(lambda: client.fine_tuning.jobs.retrieve(job.id).to_dict()["progress"]["step"] > 0)  # type: ignore[index]


def test_failed_start_cleans_up(used_state_dir: Path) -> None:
    (used_state_dir / "api_key").write_text("gt_live_last\n")
    offered: list[str | None] = []
    others = family(os.getpid())

    def refuse(_database_url: str, existing_key: str | None) -> str:
        offered.append(existing_key)
        raise LocalStackError("enough")

    with (
        pytest.raises(LocalStackError, match="enough"),
        Stack(used_state_dir, migrate=lambda _url: None, bootstrap=refuse, port=0),
    ):
        pass
    assert offered == ["gt_live_last"], "the key of the last run is reused"
    assert [process for process in family(os.getpid()) if process not in others] == []
    (used_state_dir / "api_key").unlink()


def test_port_in_use_is_refused_first(state_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        stack = Stack(state_dir, migrate=lambda _url: None, bootstrap=lambda _url, _key: "", port=port)
        with pytest.raises(LocalStackError, match=rf"127\.0\.0\.1:{port}: process {os.getpid()} .*another port"), stack:
            pass
    assert not (state_dir / "postgres").exists()
    assert not (state_dir / "port").exists()
