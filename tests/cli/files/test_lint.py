"""`grouptune files lint`: a path on this machine, an id on the server."""

import json
from pathlib import Path

import yaml

from app.cli.ui.exits import ExitCode
from tests.cli.conftest import Run

GRADER = {"type": "math", "reference": "{{item.right}}"}


def test_a_path_is_linted_here_and_an_id_on_the_server(grouptune: Run, tmp_path: Path) -> None:
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

    nowhere = {"GROUPTUNE_URL": None, "GROUPTUNE_API_KEY": None, "GITHUB_ACTIONS": "true"}
    here = grouptune("files", "lint", data, "--grader", grader, **nowhere)
    assert here.returncode == ExitCode.error
    assert "67% of the groups differ" in here.stderr
    assert [line.split("\t")[:3] for line in here.stdout.splitlines()[1:]] == [
        ["2", "error", "completion"],
        ["3", "warning", ""],
    ]
    assert "line=2::the demonstration fails its own grader: it earns 0" in here.stderr

    file_id = grouptune("files", "upload", data, "--wait").stdout.strip()
    there = grouptune("files", "lint", file_id, "--grader", job, "--group", "teacher=1", "--json")
    assert there.returncode == ExitCode.error, there.stderr
    assert json.loads(there.stdout)["report"]["group"] == {"expert": 1, "teacher": 1, "self": 2}

    grader.write_text(json.dumps({"type": "math", "refrence": "x"}))
    for words, said in (
        (("--grader", grader), "grader.math.reference: Field required; grader.math.refrence"),
        (("--grader", job, "--group", "self=many"), "'self=many' is no count"),
    ):
        wrong = grouptune("files", "lint", data, *words)
        assert wrong.returncode != ExitCode.ok
        assert said in wrong.stderr.replace("\n│ ", " ")
