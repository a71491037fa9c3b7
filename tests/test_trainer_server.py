"""The server that forks trainers: a client ends as its trainer ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.core.spec.subprocess_environment import PARENT_PID
from tests.interpreter.sitecustomize import OWN_INTERPRETER

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("spec", "is_forked"), [("{}", True), (f'{{"{OWN_INTERPRETER}": 1}}', False)])
def test_client_ends_as_its_trainer(
    forked_trainers: dict[str, str], tmp_path: Path, spec: str, is_forked: bool
) -> None:
    (tmp_path / "spec.json").write_text(spec)
    command = [sys.executable, "-m", "worker.training", str(tmp_path)]
    environment = os.environ | forked_trainers | {PARENT_PID: str(os.getpid())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    assert "KeyError: 'processes'" in done.stderr
    assert ("trainer_server.py" in done.stderr) is is_forked
