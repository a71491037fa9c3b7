"""The environment of subprocesses does not contain the worker's secrets."""

import os
import sys
from pathlib import Path

import pytest

from app.core.spec.subprocess_environment import PARENT_PID, TRAINER_ENVIRONMENT
from worker.child_process import ChildProcess

PRINT_NAMES = (sys.executable, "-c", "import os; print(*sorted(os.environ))")
SECRETS = ("DATABASE_URL", "GROUPTUNE_METRICS_TOKEN", "GROUPTUNE_SECRET_KEYS", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD")


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SECRETS, "GROUPTUNE_JUDGE_API_KEY", "GROUPTUNE_TEACHER_API_KEY", "HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")


def names(child: ChildProcess) -> set[str]:
    printed = {name for line in child.lines() for name in line.decode().split()}
    assert child.wait() == 0
    return printed


def test_default_environment_has_no_secrets(tmp_path: Path) -> None:
    assert names(ChildProcess(PRINT_NAMES, tmp_path / "log")) <= {
        *(set(os.environ) - {*SECRETS, "CUDA_VISIBLE_DEVICES", "GROUPTUNE_JUDGE_API_KEY", "HF_TOKEN", "WANDB_API_KEY"}),
        *("OMP_WAIT_POLICY", PARENT_PID),
    } - {"GROUPTUNE_TEACHER_API_KEY"}


def test_trainer_environment_has_only_its_keys(tmp_path: Path) -> None:
    passed = names(ChildProcess(PRINT_NAMES, tmp_path / "log", environment=TRAINER_ENVIRONMENT.select(os.environ)))
    assert {"PATH", "CUDA_VISIBLE_DEVICES", "GROUPTUNE_JUDGE_API_KEY", PARENT_PID} <= passed
    assert not {*SECRETS, "GROUPTUNE_TEACHER_API_KEY", "HF_TOKEN", "WANDB_API_KEY"} & passed
