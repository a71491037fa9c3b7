"""GitHub workflow commands: outputs, summaries and annotations."""

from pathlib import Path
from typing import Any

import pytest

from app.cli.ui import github


@pytest.fixture
def workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set the environment of a workflow step; returns the parent directory of its workspace."""
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path / "work"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def test_annotations_use_workspace_paths(workflow: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = workflow / "work" / "a,b" / "rows.jsonl"
    errors: list[dict[str, Any]] = [
        {"line": 17, "param": "messages", "message": "50% wrong\nhere"},
        {"line": None, "param": None, "message": "x"},
    ]
    github.annotate(path, errors, [{"line": 3, "param": None, "message": "long"}])
    github.annotate(workflow / "elsewhere.jsonl", [{"line": 1, "param": None, "message": "y"}] * 12, [])
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert lines[:3] == [
        "::error file=a%2Cb/rows.jsonl,line=17::50%25 wrong%0Ahere (messages)",
        "::error file=a%2Cb/rows.jsonl::x",
        "::warning file=a%2Cb/rows.jsonl,line=3::long",
    ]
    assert lines[3:] == [f"::error file={workflow}/elsewhere.jsonl,line=1::y"] * 10
    assert out == ""


def test_output_value_cannot_inject_output(workflow: Path) -> None:
    github.set_outputs(job_id="ftjob-1\nmodel<<EOF\nfake\nEOF", model="")
    first, *lines = (workflow / "output").read_text().splitlines()
    name, delimiter = first.split("<<")
    assert name == "job-id"
    assert lines[:5] == ["ftjob-1", "model<<EOF", "fake", "EOF", delimiter]
    assert lines[5].startswith("model<<")
    assert lines[5] != f"model<<{delimiter}"


def test_summary_appends_and_is_off_elsewhere(workflow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    github.add_summary("one")
    github.add_summary("two")
    assert (workflow / "summary").read_text() == "one\ntwo\n"
    monkeypatch.delenv("GITHUB_ACTIONS")
    github.set_outputs(model="x")
    github.hide("secret")
    assert not (workflow / "output").exists()
