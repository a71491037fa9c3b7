"""`grouptune evals` against a running server with its engine and workers."""

import json
from pathlib import Path
from typing import Any

from app.cli.ui.exits import ExitCode
from tests.cli.conftest import Run
from tests.evals import EXACT, answered, jsonl, sums


def test_create_run_show_compare_and_delete(grouptune: Run, tmp_path: Path) -> None:
    """A model of the server, and stored answers to the same items."""
    rows, stored = tmp_path / "rows.jsonl", tmp_path / "stored.jsonl"
    rows.write_bytes(jsonl(sums(3)))
    stored.write_bytes(jsonl(answered(["0", "2", "x"])))
    (tmp_path / "grader.json").write_text(json.dumps(EXACT))
    created = grouptune("evals", "create", "--grader", tmp_path / "grader.json", "--name", "sums")
    assert created.returncode == ExitCode.ok, created.stderr
    eval_id = created.stdout.strip()
    assert f"{eval_id}\tsums\texact" in grouptune("evals", "list").stdout

    options = ("--model", "tiny", "--prompt", "{{item.question}}", "--set", "max_completion_tokens=4")
    sampled = grouptune("evals", "run", eval_id, rows, *options, "--name", "tiny run", "--json")
    assert sampled.returncode == ExitCode.ok, sampled.stderr
    run: Any = json.loads(sampled.stdout)
    assert (run["status"], run["result_counts"]["total"], run["model"]) == ("completed", 3, "tiny")
    assert run["data_source"]["sampling_params"] == {"max_completion_tokens": 4}
    graded = grouptune("evals", "run", eval_id, stored)
    assert "2 (66.7%) passed, 1 failed, 0 errored" in graded.stderr
    graded_id = graded.stdout.splitlines()[0]

    assert "tiny run" in grouptune("evals", "show", eval_id).stdout
    assert grouptune("evals", "show", eval_id, graded_id, "--status", "fail").stdout.splitlines()[-1] == "3\tfail\t0\tx"
    compared = grouptune("evals", "compare", eval_id, run["id"], graded_id)
    assert "pass_rate\t0.0%\t66.7%\t+66.7%" in compared.stdout
    assert "3 rows cannot tell which run is better (2 rows gained, 0 lost)." in compared.stderr
    assert json.loads(grouptune("evals", "compare", eval_id, run["id"], graded_id, "--json").stdout)["gained"] == 2

    unfiltered = grouptune("evals", "show", eval_id, "--status", "fail")
    assert unfiltered.returncode == ExitCode.usage
    assert "Name the run whose rows to show." in unfiltered.stderr
    refused = grouptune("evals", "run", eval_id, rows, "--model", "nothing", "--prompt", "{{item.question}}")
    assert refused.returncode == ExitCode.error
    assert "data_source.model" in refused.stderr
    assert grouptune("evals", "delete", eval_id, graded_id).stderr == f"{graded_id} is deleted.\n"
    assert grouptune("evals", "delete", eval_id).returncode == ExitCode.ok
    assert grouptune("evals", "show", eval_id).returncode == ExitCode.error
