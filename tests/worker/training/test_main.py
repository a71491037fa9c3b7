"""The trainer process: its standard output carries reports only, and it does not outlive its runner."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.core.spec.subprocess_environment import PARENT_PID
from tests.worker.training.runs import REPOSITORY, Job
from worker.training.__main__ import _hide_unused_bitsandbytes

NOISY = """
import os
from worker.training.__main__ import _claim_stdout
reports = _claim_stdout(None)
print("a library prints", flush=True)
os.system("echo a program prints")
reports.write("a report\\n")
"""


def test_only_reports_reach_standard_output() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOISY], cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=True
    )
    assert done.stdout == "a report\n"
    assert done.stderr.splitlines() == ["a library prints", "a program prints"]


def test_orphaned_trainer_does_not_start() -> None:
    environment = os.environ | {PARENT_PID: "1"}
    command = [sys.executable, "-m", "worker.training", "/does/not/exist"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 1
    assert "the runner died before its trainer started" in done.stderr


@pytest.mark.parametrize(("precision", "is_hidden"), [("native", True), ("4bit", False)])
def test_only_a_job_in_4_bits_imports_bitsandbytes(
    precision: str, is_hidden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = Job(tmp_path / "run", tmp_path / "base").write(base_precision=precision).spec
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    _hide_unused_bitsandbytes(spec.model_dump(mode="json"))
    assert ("bitsandbytes" in sys.modules) is is_hidden
