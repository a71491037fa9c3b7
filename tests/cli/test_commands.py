"""What the commands print, and the exit codes that scripts read."""

import json
from collections.abc import Callable
from pathlib import Path

from app.cli.exits import ExitCode
from tests.api.jobs import broken_at_17
from tests.cli.conftest import Run
from tests.tiny_model import write_rows


def test_upload_prints_the_id_and_the_list_has_it(grouptune: Run, tmp_path: Path) -> None:
    done = grouptune("files", "upload", write_rows(tmp_path / "rows.jsonl", 4), "--wait")
    assert done.returncode == ExitCode.ok, done.stderr
    file_id = done.stdout.strip()
    listed = json.loads(grouptune("files", "list", "--json").stdout)
    [file] = [one for one in listed if one["id"] == file_id]
    assert (file["filename"], file["status"]) == ("rows.jsonl", "processed")
    report = grouptune("files", "report", file_id)
    assert "4 rows" in report.stderr


def test_a_broken_file_is_told_with_its_line(grouptune: Run, tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_bytes(broken_at_17())
    done = grouptune("files", "upload", path, "--wait")
    assert done.returncode == ExitCode.error
    assert "line 17" in done.stderr
    report = grouptune("files", "report", done.stdout.strip())
    assert report.returncode == ExitCode.error
    assert "17\terror\t" in report.stdout


def test_a_job_is_created_waited_for_and_looked_at(grouptune: Run, job_file: Callable[..., Path]) -> None:
    done = grouptune("jobs", "create", "--file", job_file(), "--follow")
    assert done.returncode == ExitCode.ok, done.stderr
    assert "The job has successfully completed" in done.stderr
    job_id = done.stdout.strip()
    job = json.loads(grouptune("jobs", "show", job_id, "--json").stdout)
    assert (job["status"], job["progress"]["step"]) == ("succeeded", 2)
    assert f"{job_id}\tsucceeded\t2/2\t" in grouptune("jobs", "list").stdout
    assert "Step 2/2" in grouptune("jobs", "events", job_id).stdout
    metrics = grouptune("jobs", "metrics", job_id).stdout.splitlines()
    assert metrics[0].startswith("STEP\tLOSS\tREWARD\t")
    assert [line.split("\t")[0] for line in metrics[1:]] == ["1", "2"]
    groups = grouptune("jobs", "groups", job_id, "--step", 1)
    assert {line.split("\t")[0] for line in groups.stdout.splitlines()} == {"SOURCE", "expert", "teacher", "self"}
    assert job["fine_tuned_model"] in grouptune("models", "list").stdout


def test_a_cancelled_job_and_an_impatient_wait_have_codes_of_their_own(
    grouptune: Run, job_file: Callable[..., Path]
) -> None:
    job_id = grouptune("jobs", "create", "-f", job_file(max_steps=100_000, n_epochs=50)).stdout.strip()
    assert grouptune("jobs", "wait", job_id, "--timeout", "1s").returncode == ExitCode.timeout
    assert grouptune("jobs", "cancel", job_id).returncode == ExitCode.ok
    assert grouptune("jobs", "wait", job_id).returncode == ExitCode.job_cancelled


def test_a_refused_job_names_the_field(grouptune: Run, job_file: Callable[..., Path]) -> None:
    path = job_file()
    path.write_text(path.read_text().replace("model: tiny", "model: gpt-9"))
    done = grouptune("jobs", "create", "-f", path)
    assert done.returncode == ExitCode.error
    assert "(model)" in done.stderr
    assert done.stdout == ""


def test_a_job_file_that_is_no_yaml_is_told_with_line_and_column(grouptune: Run, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("model: tiny\nmethod: {type: gft\n")
    done = grouptune("jobs", "create", "-f", path)
    assert done.returncode == ExitCode.error
    assert "line 3, column 1" in done.stderr


def test_a_missing_training_file_uploads_nothing(grouptune: Run, job_file: Callable[..., Path]) -> None:
    path = job_file()
    path.with_name("train.jsonl").unlink()
    before = grouptune("files", "list").stdout
    done = grouptune("jobs", "create", "-f", path)
    assert done.returncode == ExitCode.error
    assert "train.jsonl" in done.stderr
    assert "(training_file)" in done.stderr
    assert grouptune("files", "list").stdout == before


def test_who_cannot_reach_or_enter_the_server_is_told_how(grouptune: Run, tmp_path: Path) -> None:
    away = grouptune("jobs", "list", GROUPTUNE_URL="http://127.0.0.1:9")
    assert away.returncode == ExitCode.unreachable
    nowhere = grouptune("jobs", "list", "--state-dir", tmp_path)
    assert nowhere.returncode == ExitCode.unreachable
    assert "grouptune up" in nowhere.stderr
    keyless = grouptune("jobs", "list", GROUPTUNE_API_KEY=None)
    assert keyless.returncode == ExitCode.auth
    assert "GROUPTUNE_API_KEY" in keyless.stderr
    assert grouptune("jobs", "list", GROUPTUNE_API_KEY="gt_live_wrong").returncode == ExitCode.auth
    assert grouptune("jobs", "list", "--limit", "none").returncode == ExitCode.usage


def test_an_unknown_base_model_cannot_be_pulled(grouptune: Run) -> None:
    done = grouptune("models", "pull", "gpt-9")
    assert done.returncode == ExitCode.error
    assert "smollm2-135m-instruct" in done.stderr
