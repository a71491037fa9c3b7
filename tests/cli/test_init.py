"""`grouptune init` writes a job that the server accepts."""

from pathlib import Path

from app.cli.ui.exits import ExitCode
from tests.cli.conftest import Run


def test_new_job_is_valid(grouptune: Run, tmp_path: Path) -> None:
    made = grouptune("init", tmp_path / "new", "--model", "tiny")
    path = tmp_path / "new" / "job.yaml"
    assert (made.returncode, made.stdout) == (ExitCode.ok, f"{path}\n")
    valid = grouptune("jobs", "validate", "-f", path)
    assert (valid.returncode, valid.stdout) == (ExitCode.ok, "valid\n"), valid.stderr
    again = grouptune("init", tmp_path / "new")
    assert again.returncode == ExitCode.error
    assert "exists already" in again.stderr
