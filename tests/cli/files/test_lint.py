"""`grouptune files lint` for a local path and for an uploaded file."""

import json
from pathlib import Path

import pytest
import yaml

from app.cli.files.lint import LintTooSlow, exit_code
from app.cli.ui.exits import ExitCode
from tests.cli.conftest import Run

GRADER = {"type": "math", "reference": "{{item.right}}"}


def test_lint_a_path_and_an_uploaded_file(grouptune: Run, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    rows = [("2", ["2", "3"], "2"), ("4", ["3"], "3"), ("3", ["3"], "3")]
    data.write_text(
        "".join(
            json.dumps({"prompt": "?", "completion": expert, "teacher_responses": teachers, "right": right}) + "\n"
            for expert, teachers, right in rows
        )
    )
    grader, job = tmp_path / "grader.json", tmp_path / "job.yaml"
    grader.write_text(json.dumps(GRADER))
    job.write_text(yaml.safe_dump({"method": {"type": "gft", "gft": {"grader": GRADER, "group": {"self": 2}}}}))

    no_server = {"GROUPTUNE_URL": None, "GROUPTUNE_API_KEY": None, "GITHUB_ACTIONS": "true"}
    local = grouptune("files", "lint", data, "--grader", grader, **no_server)
    assert local.returncode == ExitCode.error
    assert "67% of the groups differ" in local.stderr
    assert [line.split("\t")[:3] for line in local.stdout.splitlines()[1:]] == [
        ["2", "error", "completion"],
        ["3", "warning", ""],
    ]
    assert "line=2::the demonstration fails its own grader: it earns 0" in local.stderr

    file_id = grouptune("files", "upload", data, "--wait").stdout.strip()
    remote = grouptune("files", "lint", file_id, "--grader", job, "--group", "teacher=1", "--json")
    assert remote.returncode == ExitCode.error, remote.stderr
    assert json.loads(remote.stdout)["report"]["group"] == {"expert": 1, "teacher": 1, "self": 2}

    suggested = grouptune("files", "suggest-grader", file_id)
    assert (suggested.returncode, json.loads(suggested.stdout)["reference"]) == (ExitCode.ok, "{{item.completion}}")
    assert "the demonstration is a number" in suggested.stderr

    methods = grouptune("files", "suggest-method", file_id, "--json")
    assert methods.returncode == ExitCode.ok, methods.stderr
    assert json.loads(methods.stdout)["suggestions"][0]["method"] == "supervised"

    grader.write_text(json.dumps({"type": "math", "refrence": "x"}))
    for words, message in (
        (("--grader", grader), "grader.math.reference: Field required; grader.math.refrence"),
        (("--grader", job, "--group", "self=many"), "'self=many' is not a count"),
    ):
        invalid = grouptune("files", "lint", data, *words)
        assert invalid.returncode != ExitCode.ok
        assert message in invalid.stderr.replace("\n│ ", " ")


def test_exit_code_when_time_runs_out() -> None:
    stopped = {"stopped": True, "error_count": 0, "signal_share_limit": 0.0, "rows_graded": 1}
    assert exit_code(stopped) == ExitCode.ok
    assert exit_code(stopped | {"error_count": 1}) == ExitCode.error
    assert exit_code(stopped | {"stopped": False}) == ExitCode.error
    with pytest.raises(LintTooSlow, match="No row was graded"):
        exit_code(stopped | {"rows_graded": 0})
