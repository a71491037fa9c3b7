"""`grouptune jobs` against a running server: output and exit codes."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from app.cli.ui.exits import ExitCode
from tests.api.jobs import broken_at_17
from tests.cli.conftest import Run, Start


def ids_of(grouptune: Run, noun: str) -> list[str]:
    """Return the ids of all jobs or files, newest first."""
    return [str(entry["id"]) for entry in json.loads(grouptune(noun, "list", "--json").stdout)]


def test_create_follow_and_inspect_a_job(grouptune: Run, job_file: Callable[..., Path]) -> None:
    done = grouptune("jobs", "create", "--file", job_file(), "--follow")
    assert done.returncode == ExitCode.ok, done.stderr
    assert "The job has successfully completed" in done.stderr
    job_id = done.stdout.strip()
    shown = dict(line.split("\t") for line in grouptune("jobs", "show", job_id).stdout.splitlines())
    assert " on " in shown["estimated"]
    assert "than expected" in shown["took"]
    job = json.loads(grouptune("jobs", "show", job_id, "--json").stdout)
    assert (job["status"], job["progress"]["step"]) == ("succeeded", 2)
    assert f"{job_id}\t\tsucceeded\t2/2\t" in grouptune("jobs", "list").stdout
    metrics = grouptune("jobs", "metrics", job_id).stdout.splitlines()
    assert metrics[0].startswith("STEP\tLOSS\tREWARD\t")
    assert [line.split("\t")[0] for line in metrics[1:]] == ["1", "2"]
    groups = grouptune("jobs", "groups", job_id, "--step", 1)
    assert {line.split("\t")[0] for line in groups.stdout.splitlines()} == {"SOURCE", "expert", "teacher", "self"}
    assert f"{job['fine_tuned_model']}\tfine-tuned\tready" in grouptune("models", "list").stdout
    unknown = grouptune("jobs", "metrics", job_id, "--names", "loss,nope")
    assert unknown.returncode == ExitCode.error
    assert "has no metric 'nope'; it has: " in unknown.stderr

    def as_json(*words: str) -> Any:
        return json.loads(grouptune(*words, "--json").stdout)

    assert as_json("jobs", "events", job_id)[-1]["message"] == "The job has successfully completed"
    assert len(as_json("jobs", "metrics", job_id)["series"]["loss"]) == 2
    assert as_json("files", "report", job["training_file"])["report"]["rows"] == 16


def test_lost_rows_are_shown_before_the_job(grouptune: Run, job_file: Callable[..., Path]) -> None:
    path = job_file(rows=16)
    data = path.with_name("train.jsonl")
    long = {"prompt": "1+1=", "completion": "2" * 600, "reference_answer": "2"}
    data.write_text(data.read_text() + f"{json.dumps(long)}\n" * 4)
    job = yaml.safe_load(path.read_text())
    method = {"type": "supervised", "supervised": {"hyperparameters": {"max_steps": 1}}}
    path.write_text(yaml.safe_dump(job | {"method": method}))

    validated = grouptune("jobs", "validate", "-f", path)
    assert (validated.returncode, validated.stdout) == (ExitCode.ok, "valid\n"), validated.stderr
    warning = "Warning: 4 of 20 rows of the training file are not used: 4 with an answer that is too long (line 17: "
    assert warning in validated.stderr
    used = "Warning: Training rows: 16 of 20 used (4 answer_too_long)."
    assert used in validated.stderr

    created = grouptune("jobs", "create", "-f", path, "--wait")
    assert created.returncode == ExitCode.ok, created.stderr
    assert used in created.stderr
    shown = dict(line.split("\t") for line in grouptune("jobs", "show", created.stdout.strip()).stdout.splitlines())
    assert shown["training rows"] == "16 of 20 used (4 answer_too_long)"

    data.write_text(f"{json.dumps(long)}\n" * 4)
    refused = grouptune("jobs", "validate", "-f", path)
    assert (refused.returncode, refused.stdout) == (ExitCode.error, "not valid\n")
    assert "Error: The method 'supervised' can use no row of the training file." in refused.stderr
    assert grouptune("jobs", "create", "-f", path).returncode == ExitCode.error


def test_estimate_creates_no_job(grouptune: Run, job_file: Callable[..., Path]) -> None:
    before = ids_of(grouptune, "jobs")
    done = grouptune("jobs", "estimate", "-f", job_file())
    assert done.returncode == ExitCode.ok, done.stderr
    estimate = dict(line.split("\t") for line in done.stdout.splitlines())
    assert (estimate["steps"], estimate["rollouts"], estimate["grader calls"]) == ("2", "16", "32")
    assert estimate["verdict"].startswith("fits. The job needs ")
    workers = {line.split("\t")[2]: line.split("\t") for line in grouptune("workers").stdout.splitlines()}
    assert workers["train"][0] in estimate["verdict"]
    assert workers["train"][-1] == workers["default"][-1] == estimate["device"]
    assert " to " in estimate["time"]
    assert ids_of(grouptune, "jobs") == before


def test_regrade(grouptune: Run, succeeded_job: str, tmp_path: Path) -> None:
    job_id = succeeded_job
    (tmp_path / "grader.json").write_text('{"type": "regex", "pattern": "[0-9]"}')
    done = grouptune("jobs", "regrade", job_id, "--grader", tmp_path / "grader.json")
    assert done.returncode == ExitCode.ok, done.stderr
    assert done.stderr.startswith("Regraded 4 of 4 groups, 32 answers.\n")
    table = {line.split("\t")[0]: line.split("\t")[1:] for line in done.stdout.splitlines()}
    assert table["mean reward, expert"] == ["1", "1"]
    assert table["answers that could not be graded"] == ["0", "0"]
    as_json = json.loads(grouptune("jobs", "regrade", job_id, "--grader", tmp_path / "grader.json", "--json").stdout)
    assert len(as_json["data"]) == 4
    (tmp_path / "grader.json").write_text("[]")
    wrong = grouptune("jobs", "regrade", job_id, "--grader", tmp_path / "grader.json")
    assert wrong.returncode == ExitCode.error
    assert "must contain one grader" in wrong.stderr


def test_failed_job_has_a_reason_and_exit_code(grouptune: Run, job_file: Callable[..., Path]) -> None:
    path = job_file()
    job = yaml.safe_load(path.read_text())
    job["method"]["gft"]["grader"]["reference"] = "123456"
    path.write_text(yaml.safe_dump(job))
    done = grouptune("jobs", "create", "-f", path, "--wait", "--json")
    assert done.returncode == ExitCode.job_failed, done.stderr
    failed = json.loads(done.stdout)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "nothing_learned")
    assert failed["error"]["message"] in done.stderr


def test_rows_that_cannot_be_used_are_refused(grouptune: Run, job_file: Callable[..., Path]) -> None:
    done = grouptune("jobs", "create", "-f", job_file(max_length=16), "--wait")
    assert done.returncode == ExitCode.error
    assert "16 with a prompt that is too long (line 1: " in done.stderr


def test_idempotency_key_reuses_the_job(grouptune: Run, job_file: Callable[..., Path]) -> None:
    path = job_file()
    key = ("--idempotency-key", f"build-{path.parent.name}")
    first = grouptune("jobs", "create", "-f", path, *key, "--wait")
    assert first.returncode == ExitCode.ok, first.stderr
    files = ids_of(grouptune, "files")
    again = grouptune("jobs", "create", "-f", path, *key, "--wait")
    assert (again.returncode, again.stdout) == (ExitCode.ok, first.stdout)
    assert ids_of(grouptune, "files") == files
    path.write_text(path.read_text().replace("max_steps: 2", "max_steps: 3"))
    other = grouptune("jobs", "create", "-f", path, *key)
    assert other.returncode == ExitCode.error
    assert "Send a new key with a new request" in other.stderr


def test_passed_gates_move_the_alias(grouptune: Run, job_file: Callable[..., Path]) -> None:
    path = job_file()
    path.write_text(path.read_text() + "validation_file: train.jsonl\ngates: ['eval/loss >= 0']\nalias: best\n")
    passed = grouptune("jobs", "create", "-f", path, "--gate", "eval/loss < 1e9", "--wait", "--json")
    assert passed.returncode == ExitCode.ok, passed.stderr
    assert "Gate passed: eval/loss >= 0 (" in passed.stderr
    assert "Gate passed: eval/loss < 1e9 (" in passed.stderr
    job = json.loads(passed.stdout)
    assert "alias\tbest\n" in grouptune("jobs", "show", job["id"]).stdout
    messages = [event["message"] for event in json.loads(grouptune("jobs", "events", job["id"], "--json").stdout)]
    assert f"The alias best now points to {job['fine_tuned_model']}" in messages


def test_pause_resume_cancel_and_interrupt(grouptune: Run, start_grouptune: Start, long_job: Callable[[], str]) -> None:
    running, queued = long_job(), long_job()
    assert grouptune("jobs", "pause", queued).stderr == f"{queued} is paused.\n"
    assert grouptune("jobs", "resume", queued).stderr == f"{queued} is queued.\n"
    impatient = grouptune("jobs", "wait", queued, "--timeout", "1s")
    assert (impatient.returncode, impatient.stdout) == (ExitCode.timeout, f"{queued}\n")
    with (
        start_grouptune("jobs", "wait", running) as detached,
        start_grouptune("jobs", "wait", queued, "--cancel-on-interrupt") as cancelling,
    ):
        for process, message in (
            (detached, f"Stopped waiting; {running} continues. Wait again with: grouptune jobs wait {running}\n"),
            (cancelling, f"Cancelling {queued}.\n"),
        ):
            assert process.stderr is not None
            assert process.stderr.readline()  # it waits now
            process.send_signal(signal.SIGINT)
            assert process.wait(240) == ExitCode.interrupted
            assert process.stderr.read().endswith(message)
    assert grouptune("jobs", "wait", queued).returncode == ExitCode.job_cancelled
    assert f"{running} is still running and will be cancelled" in grouptune("jobs", "cancel", running).stderr
    assert grouptune("jobs", "wait", running).returncode == ExitCode.job_cancelled
    again = grouptune("jobs", "cancel", running)
    assert again.returncode == ExitCode.error
    assert "too late to cancel it" in again.stderr


def test_invalid_file_creates_no_job(grouptune: Run, job_file: Callable[..., Path]) -> None:
    path = job_file()
    path.with_name("train.jsonl").write_bytes(broken_at_17())
    before = ids_of(grouptune, "jobs")
    done = grouptune("jobs", "create", "-f", path, "--wait")
    assert (done.returncode, done.stdout) == (ExitCode.error, "")
    assert "train.jsonl: line 17: " in done.stderr
    assert ids_of(grouptune, "jobs") == before


def test_refused_job_names_the_field(grouptune: Run, job_file: Callable[..., Path]) -> None:
    path = job_file()
    path.write_text(path.read_text().replace("model: tiny", "model: gpt-9"))
    done = grouptune("jobs", "create", "-f", path)
    assert done.returncode == ExitCode.error
    assert "(model)" in done.stderr
    assert done.stdout == ""


def test_invalid_yaml_reports_line_and_column(grouptune: Run, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("model: tiny\nmethod: {type: gft\n")
    done = grouptune("jobs", "create", "-f", path)
    assert done.returncode == ExitCode.error
    assert "line 3, column 1" in done.stderr


def test_missing_training_file_uploads_nothing(grouptune: Run, job_file: Callable[..., Path]) -> None:
    path = job_file()
    path.with_name("train.jsonl").unlink()
    before = ids_of(grouptune, "files")
    done = grouptune("jobs", "create", "-f", path)
    assert done.returncode == ExitCode.error
    assert "train.jsonl" in done.stderr
    assert "(training_file)" in done.stderr
    assert ids_of(grouptune, "files") == before
