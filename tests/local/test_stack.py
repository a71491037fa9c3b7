"""The whole stack with the real API and workers."""

import json
import os
import socket
from pathlib import Path

import httpx
import psutil
import pytest

from app.core import migrate
from app.core.accounts.api_keys import ensure_bootstrap
from app.core.db import Database
from app.local.process import LocalStackError
from app.local.stack import Stack
from tests.local.conftest import assert_all_end


def bootstrap(database_url: str, existing_key: str | None) -> str:
    database = Database(database_url)
    try:
        with database.transaction() as session:
            return ensure_bootstrap(session, existing_key)
    finally:
        database.dispose()


def test_it_serves_and_leaves_nothing_but_the_key(used_state_dir: Path) -> None:
    connection_path = used_state_dir / "connection.json"
    with Stack(used_state_dir, migrate=migrate.upgrade, bootstrap=bootstrap) as stack:
        connection = json.loads(connection_path.read_text())
        answer = httpx.get(
            f"{connection['base_url']}/files",
            headers={"Authorization": f"Bearer {connection['api_key']}"},
            trust_env=False,
        )
        assert (answer.status_code, connection["pid"]) == (200, os.getpid())
        assert connection_path.stat().st_mode & 0o777 == 0o600
        processes = psutil.Process().children(recursive=True)
    assert_all_end(processes)
    assert not connection_path.exists()
    key_path = used_state_dir / "api_key"
    assert (key_path.read_text().strip(), key_path.stat().st_mode & 0o777) == (stack.api_key, 0o600)


def test_the_key_of_the_last_run_is_offered_again_and_a_failed_start_cleans_up(used_state_dir: Path) -> None:
    (used_state_dir / "api_key").write_text("gt_live_known\n")
    offered: list[str | None] = []

    def refuse(_database_url: str, existing_key: str | None) -> str:
        offered.append(existing_key)
        raise LocalStackError("enough")

    with (
        pytest.raises(LocalStackError, match="enough"),
        Stack(used_state_dir, migrate=lambda _url: None, bootstrap=refuse),
    ):
        pass
    assert offered == ["gt_live_known"]
    assert psutil.Process().children(recursive=True) == []
    (used_state_dir / "api_key").unlink()


def test_a_taken_port_is_refused_before_anything_starts(state_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        stack = Stack(state_dir, migrate=lambda _url: None, bootstrap=lambda _url, _key: "", port=port)
        with pytest.raises(LocalStackError, match=rf"127\.0\.0\.1:{port} .*choose another"), stack:
            pass
    assert not (state_dir / "postgres").exists()
