"""`grouptune files generate`: from generated rows to a trained model."""

import json
from pathlib import Path

import yaml

from app.cli.ui.exits import ExitCode
from tests.cli.conftest import Run


def test_generate_lint_and_train(grouptune: Run, tmp_path: Path) -> None:
    words = ("files", "generate", "reasoning-gym", "chain_sum", "--rows", 6, "--set", "max_digits=1")
    made = grouptune(*words, "--upload")
    assert made.returncode == ExitCode.ok, made.stderr
    file_id = made.stdout.strip()
    grader = json.loads(made.stderr.rpartition("Grader for these rows: ")[2])
    settings = {
        "grader": grader,
        "group": {"expert": 1, "teacher": 0, "self": 2},
        "sampling": {"max_tokens": 4},
        "hyperparameters": {"batch_size": 2, "max_steps": 2},
    }
    body = {"model": "tiny", "training_file": file_id, "method": {"type": "gft", "gft": settings}}
    job_file = tmp_path / "job.yaml"
    job_file.write_text(yaml.safe_dump(body))

    job = grouptune("jobs", "create", "-f", job_file, "--wait", "--json")
    assert job.returncode == ExitCode.ok, job.stderr
    groups = grouptune("jobs", "groups", json.loads(job.stdout)["id"], "--step", 1, "--json")
    members = [member for group in json.loads(groups.stdout)["data"] for member in group["members"]]
    assert {member["reward"] for member in members if member["source"] == "expert"} == {1.0}
    assert [member["error"] for member in members if member["error"]] == []

    path = tmp_path / "rows.jsonl"
    assert grouptune(*words, "-o", path).stdout.strip() == str(path)
    # Here, because the server's lint has a time limit: this grader takes seconds to start.
    lint = grouptune("files", "lint", path, "--grader", job_file, "--json")
    assert lint.returncode == ExitCode.ok, lint.stderr
    assert json.loads(lint.stdout)["report"]["experts"] == {"graded": 6, "passed": 6, "errors": 0, "mean_reward": 1.0}
    again = grouptune(*words, "-o", path)
    assert again.returncode == ExitCode.error
    assert "exists already" in again.stderr
    assert "chain_sum\tarithmetic\tGenerates simple arithmetic tasks" in grouptune("files", "generate").stdout
