"""The files that contributors and GitHub read: CONTRIBUTING.md, workflows, templates and pre-commit hooks."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[1]
GITHUB: Final = ROOT / ".github"
SCHEMAS: Final = {
    "workflows/ci.yml": "github-workflows",
    "ISSUE_TEMPLATE/bug_report.yml": "github-issue-forms",
    "ISSUE_TEMPLATE/feature_request.yml": "github-issue-forms",
    "ISSUE_TEMPLATE/config.yml": "github-issue-config",
}
"""File in .github -> the built-in schema of check-jsonschema for it."""


def run_tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program of this environment in the repository's root."""
    command = [str(Path(sys.executable).with_name(name)), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("name", SCHEMAS)
def test_github_accepts_the_file(name: str) -> None:
    done = run_tool("check-jsonschema", "--builtin-schema", f"vendor.{SCHEMAS[name]}", GITHUB / name)
    assert done.returncode == 0, done.stdout


def test_every_github_file_has_a_schema() -> None:
    assert {str(path.relative_to(GITHUB)) for path in GITHUB.rglob("*.yml")} == set(SCHEMAS)


def test_workflow_runs_the_ci_script() -> None:
    steps = yaml.safe_load((GITHUB / "workflows/ci.yml").read_text())["jobs"]["test"]["steps"]
    commands = " ".join(step.get("run", "") for step in steps)
    script = re.search(r"\S*\.ci/\S+", commands)
    assert script
    assert (ROOT / script.group()).stat().st_mode & 0o100


def test_workflow_tests_every_declared_python() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    declared = [name.rpartition(" ")[2] for name in classifiers if re.search(r":: 3\.\d+$", name)]
    job = yaml.safe_load((GITHUB / "workflows/ci.yml").read_text())["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == declared
    assert declared[0] == "3.11"


def test_ci_script_uses_the_chosen_python(tmp_path: Path) -> None:
    """If it lacks `venv`, its package is installed, or without root named. Both times it is handed on to make."""
    programs = {
        "python3.99": "exit 1",
        "apt-get": 'echo "apt-get $*"',
        "make": 'echo "make $* with $PYTHON"',
        "chromium": "",
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHON": "python3.99"}
    done = subprocess.run([ROOT / ".ci" / "run"], env=environment, capture_output=True, text=True, check=False)
    if os.geteuid() == 0:
        assert "install -y -qq --no-install-recommends python3.99-venv python3.99-dev\n" in done.stdout
        assert done.stdout.endswith("make test with python3.99\n")
    else:
        assert (done.returncode, done.stderr) == (1, "Please install: python3.99-venv python3.99-dev\n")


def test_contributing_names_existing_paths() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:app|worker|migrations|docker|bench|docs|tests)/[\w./-]*)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_contributing_locates_forty_behaviours() -> None:
    section = (
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Where is it?")[2].partition("\n## ")[0]
    )
    rows = [line for line in section.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) >= 40


def test_pre_commit_config_is_valid() -> None:
    done = run_tool("pre-commit", "validate-config", ROOT / ".pre-commit-config.yaml")
    assert done.returncode == 0, done.stdout
