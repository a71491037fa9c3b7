"""The previous release runs on the schema of this version: its own tests pass on a database that is migrated further.

While an installation is upgraded, its API and workers use the new schema (docs/operations.md).
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from io import BytesIO
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import SERVER

ROOT: Final = Path(__file__).parents[1]
REVISION: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["grouptune"]["previous-release"]
TESTS: Final = (
    # The API: jobs of every method, their events, metrics and checkpoints, files, readiness under a newer schema.
    "tests/api/routes/test_fine_tuning.py",
    "tests/api/test_readiness.py",
    # Workers: whole attempts from the claim to the published model, with a trainer that trains no model.
    "tests/worker/test_runner.py::test_job_publishes_its_adapter",
    "tests/worker/test_runner.py::test_crashed_job_resumes_from_checkpoint",
    "tests/worker/test_runner.py::test_dependency_outage_requeues_the_job",
    "tests/worker/test_schema.py",
    # What both write: claims, leases, endings, the journal, and stop requests.
    "tests/core/jobs/test_leases.py",
    "tests/core/jobs/test_lifecycle.py",
    "tests/core/jobs/test_journal.py",
)


PARTS: Final = ("app", "worker", "tests", "migrations", "pyproject.toml", "docs/jobs.md")


def _git(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)


@pytest.fixture
def previous(tmp_path: Path) -> Path:
    """The sources of the previous release, with the migrations of this version."""
    if _git("cat-file", "-e", f"{REVISION}^{{commit}}").returncode != 0:
        pytest.skip(f"the history has no commit {REVISION}: run `git fetch --unshallow`")
    archive = _git("archive", "--format=tar", REVISION, *PARTS)
    assert archive.returncode == 0, archive.stderr
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as sources:
        sources.extractall(tmp_path, filter="data")
    shutil.rmtree(tmp_path / "migrations")
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_previous_release_runs_on_this_schema(previous: Path, postgres: str) -> None:
    # PYTHONPATH takes precedence over the installation of this version, also in child processes.
    environment = os.environ | {"PYTHONPATH": str(previous), SERVER: postgres}
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-c", "import app, worker; print(app.__file__, worker.__file__, sep='\\n')"]
    found = subprocess.run(command, cwd=previous, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.split() == [str(previous / name / "__init__.py") for name in ("app", "worker")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not strict", *TESTS]
    ran = subprocess.run(command, cwd=previous, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
