"""The command as people and scripts run it: a process of its own against a running installation."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny_model import write_rows

ROOT = Path(__file__).parents[2]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def grouptune(stack: Any) -> Run:
    """Runs `grouptune WORDS...` with the installation of the tests in the environment."""
    environment = os.environ | {"GROUPTUNE_URL": stack.base_url, "GROUPTUNE_API_KEY": stack.api_key}

    def run(*words: object, **changed: str | None) -> "subprocess.CompletedProcess[str]":
        merged = {name: value for name, value in (environment | changed).items() if value is not None}
        command = [sys.executable, "-m", "app.cli", *map(str, words)]
        return subprocess.run(command, cwd=ROOT, env=merged, capture_output=True, text=True, timeout=90, check=False)

    return run


@pytest.fixture
def job_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a job of two short steps on the model `tiny`, and the data beside it."""

    def write(**hyperparameters: int) -> Path:
        write_rows(tmp_path / "train.jsonl", 16)
        grader = {"type": "math", "reference": "{{item.reference_answer}}"}
        settings = {
            "grader": grader,
            "sampling": {"max_tokens": 4},
            "hyperparameters": {"batch_size": 2, "max_steps": 2} | hyperparameters,
        }
        body = {"model": "tiny", "training_file": "train.jsonl", "method": {"type": "gft", "gft": settings}}
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(body))
        return path

    return write
