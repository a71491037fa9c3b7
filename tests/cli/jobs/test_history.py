"""`grouptune jobs attempts`, `checkpoints`, `compare`, `open` and `delete`; deletion of files and models."""

import json
from collections.abc import Callable
from pathlib import Path

import yaml

from app.cli.ui.exits import ExitCode
from tests.cli.conftest import Run
from tests.tiny_model import write_rows


def test_attempts_and_checkpoints(grouptune: Run, succeeded_job: str, tmp_path: Path) -> None:
    header, *rows = [line.split("\t") for line in grouptune("jobs", "attempts", succeeded_job).stdout.splitlines()]
    assert header[:5] == ["ATTEMPT", "OUTCOME", "STARTED", "TOOK", "STEPS"]
    assert (rows[-1][1], rows[-1][4].split()[-1]) == ("succeeded", "2")
    header, *rows = [line.split("\t") for line in grouptune("jobs", "checkpoints", succeeded_job).stdout.splitlines()]
    assert header == ["STEP", "LOSS", "REWARD", "AGE", "MODEL"]
    listed = json.loads(grouptune("jobs", "checkpoints", succeeded_job, "--json").stdout)
    assert [row[4] for row in rows] == [point["fine_tuned_model_checkpoint"] for point in listed]
    assert all(":ckpt-step-" in row[4] for row in rows)
    fetched = grouptune("jobs", "checkpoints", succeeded_job, "--download", rows[0][0], "--to", tmp_path / "at-end")
    assert (fetched.returncode, fetched.stdout) == (ExitCode.ok, f"{tmp_path / 'at-end'}\n"), fetched.stderr
    assert (tmp_path / "at-end" / "adapter_model.safetensors").is_file()
    absent = grouptune("jobs", "checkpoints", succeeded_job, "--download", "99")
    assert f"no checkpoint of step 99. Steps with a checkpoint: {rows[-1][0]}" in absent.stderr


def test_compare_and_delete(grouptune: Run, succeeded_job: str, job_file: Callable[..., Path]) -> None:
    path = job_file(learning_rate_multiplier=500)
    copy = path.with_name("copy.jsonl")
    copy.write_bytes(path.with_name("train.jsonl").read_bytes())
    other = grouptune("jobs", "create", "-f", path, "--training-file", copy, "--set", "group.self=3", "--wait")
    assert other.returncode == ExitCode.ok, other.stderr
    job_id = other.stdout.strip()
    compared = json.loads(grouptune("jobs", "compare", succeeded_job, job_id, "--json").stdout)
    assert compared["jobs"] == [succeeded_job, job_id]
    assert compared["settings"].keys() == {"seed", "group.self"}
    assert compared["settings"]["group.self"] == [4, 3]
    assert len(compared["results"]["reward"]) == 2
    table = grouptune("jobs", "compare", succeeded_job, job_id).stdout
    assert "group.self\t4\t3\n" in table
    assert table.startswith(f"FIELD\tJOB 1\tJOB 2\nid\t{succeeded_job[-8:]}\t{job_id[-8:]}\n")
    alone = grouptune("jobs", "compare", job_id, job_id[-8:])
    assert alone.returncode == ExitCode.usage

    shown = grouptune("jobs", "open", job_id, "--print")
    assert f"/ui/jobs/{job_id}#code=" in shown.stdout

    model = json.loads(grouptune("jobs", "show", job_id, "--json").stdout)["fine_tuned_model"]
    refused = grouptune("jobs", "delete", job_id)
    assert refused.returncode == ExitCode.error
    assert "Delete that model first" in refused.stderr
    assert refused.stderr.startswith("Add --models to delete the models of the jobs, too.\n")
    deleted = grouptune("jobs", "delete", job_id, "--models", "--yes")
    assert (deleted.returncode, deleted.stdout) == (ExitCode.ok, f"{job_id}\n"), deleted.stderr
    assert deleted.stderr == f"{model} is deleted.\n{job_id} is deleted.\n"
    assert grouptune("jobs", "show", job_id).returncode == ExitCode.error
    gone = grouptune("models", "delete", model)
    assert gone.returncode == ExitCode.error


def test_open_starts_the_browser(grouptune: Run, succeeded_job: str, tmp_path: Path) -> None:
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    done = grouptune("jobs", "open", succeeded_job[-8:], BROWSER=f"{browser} %s")
    assert (done.returncode, done.stderr) == (ExitCode.ok, "")
    assert opened.read_text() == done.stdout


def test_delete_files_and_models(grouptune: Run, job_file: Callable[..., Path]) -> None:
    path = job_file(rows=24, learning_rate_multiplier=500)
    paths = (write_rows(path.with_name("other.jsonl"), 5), path.with_name("train.jsonl"))
    files = [grouptune("files", "upload", one).stdout.strip() for one in paths]
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"training_file": files[1]}))
    created = grouptune("jobs", "create", "-f", path, "--wait", "--json")
    assert created.returncode == ExitCode.ok, created.stderr
    model = json.loads(created.stdout)["fine_tuned_model"]
    done = grouptune("files", "delete", *files, "file-none")
    assert (done.returncode, done.stdout.split()) == (ExitCode.error, files)
    assert "file-none" in done.stderr
    assert grouptune("models", "delete", model).stderr == f"{model} is deleted.\n"
    assert f"{model}\t" not in grouptune("models", "list").stdout
