"""What the commands print, and the exit codes that scripts read."""

import json
import signal
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from app.cli.ui.exits import ExitCode
from tests.api.jobs import broken_at_17
from tests.cli.conftest import Run, Start
from tests.http_server import Reply, http_server
from tests.tiny_model import write_rows


def ids_of(grouptune: Run, noun: str) -> list[str]:
    """Ids of the jobs or files that the server has, the newest first."""
    return [str(one["id"]) for one in json.loads(grouptune(noun, "list", "--json").stdout)]


def test_upload_prints_the_id_and_the_list_has_it(grouptune: Run, tmp_path: Path) -> None:
    done = grouptune("files", "upload", write_rows(tmp_path / "rows.jsonl", 4), "--wait")
    assert done.returncode == ExitCode.ok, done.stderr
    file_id = done.stdout.strip()
    listed = json.loads(grouptune("files", "list", "--json").stdout)
    [file] = [one for one in listed if one["id"] == file_id]
    assert (file["filename"], file["status"]) == ("rows.jsonl", "processed")
    report = grouptune("files", "report", file_id)
    assert "4 rows" in report.stderr
    preview = grouptune("files", "preview", file_id, "--model", "tiny", "--limit", 1, "--max-length", 40)
    lines = preview.stdout.splitlines()
    assert lines[0] == (
        'line 1 prompt: 23 tokens, read only: "<|im_start|>user\\n0+0=<|im_end|>\\n<|im_start|>assistant\\n"'
    )
    assert lines[1] == 'line 1 expert: 2 tokens, trained on: "0<|im_end|>"'
    assert [line.split(":")[0] for line in lines[2:]] == ["line 1 teacher 1", "line 1 teacher 2", "line 1 teacher 3"]
    assert "Tokens a row with tiny (all 4 rows): median " in preview.stderr
    assert preview.stderr.endswith("More: --after 1\n")


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
    shown = dict(line.split("\t") for line in grouptune("jobs", "show", job_id).stdout.splitlines())
    assert " on " in shown["estimated"]
    assert "than expected" in shown["took"]
    job = json.loads(grouptune("jobs", "show", job_id, "--json").stdout)
    assert (job["status"], job["progress"]["step"]) == ("succeeded", 2)
    assert f"{job_id}\tsucceeded\t2/2\t" in grouptune("jobs", "list").stdout
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


def test_a_job_is_estimated_without_being_created(grouptune: Run, job_file: Callable[..., Path]) -> None:
    before = ids_of(grouptune, "jobs")
    done = grouptune("jobs", "estimate", "-f", job_file())
    assert done.returncode == ExitCode.ok, done.stderr
    told = dict(line.split("\t") for line in done.stdout.splitlines())
    assert (told["steps"], told["rollouts"], told["grader calls"]) == ("2", "16", "32")
    assert told["verdict"].startswith("fits. It takes ")
    workers = {line.split("\t")[2]: line.split("\t") for line in grouptune("workers").stdout.splitlines()}
    assert workers["train"][0] in told["verdict"]
    assert workers["train"][-1] == workers["default"][-1] == told["device"]
    assert " to " in told["time"]
    assert ids_of(grouptune, "jobs") == before


def test_groups_are_graded_again_with_another_grader(
    grouptune: Run, job_file: Callable[..., Path], tmp_path: Path
) -> None:
    job_id = grouptune("jobs", "create", "-f", job_file(), "--wait").stdout.strip()
    (tmp_path / "grader.json").write_text('{"type": "regex", "pattern": "[0-9]"}')
    done = grouptune("jobs", "regrade", job_id, "--grader", tmp_path / "grader.json")
    assert done.returncode == ExitCode.ok, done.stderr
    assert done.stderr.startswith("4 of 4 groups, 32 answers.\n")
    told = {line.split("\t")[0]: line.split("\t")[1:] for line in done.stdout.splitlines()}
    assert told["mean reward, expert"] == ["1", "1"]
    assert told["answers that could not be graded"] == ["0", "0"]
    as_json = json.loads(grouptune("jobs", "regrade", job_id, "--grader", tmp_path / "grader.json", "--json").stdout)
    assert len(as_json["data"]) == 4
    (tmp_path / "grader.json").write_text("[]")
    wrong = grouptune("jobs", "regrade", job_id, "--grader", tmp_path / "grader.json")
    assert wrong.returncode == ExitCode.error
    assert "must hold one grader" in wrong.stderr


def test_a_failed_job_says_why_and_has_a_code_of_its_own(grouptune: Run, job_file: Callable[..., Path]) -> None:
    done = grouptune("jobs", "create", "-f", job_file(max_length=16), "--wait", "--json")
    assert done.returncode == ExitCode.job_failed, done.stderr
    job = json.loads(done.stdout)
    assert job["status"] == "failed"
    assert job["error"]["message"] in done.stderr
    assert "warn: line 1: dropped" in done.stderr


def test_a_second_run_with_the_same_key_attaches_to_the_same_job(grouptune: Run, job_file: Callable[..., Path]) -> None:
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
    assert "send a new key for a new request" in other.stderr


def test_passed_gates_are_told_and_move_the_alias(grouptune: Run, job_file: Callable[..., Path]) -> None:
    path = job_file()
    path.write_text(path.read_text() + "validation_file: train.jsonl\ngates: ['eval/loss >= 0']\nalias: best\n")
    passed = grouptune("jobs", "create", "-f", path, "--gate", "eval/loss < 1e9", "--wait", "--json")
    assert passed.returncode == ExitCode.ok, passed.stderr
    assert "Gate passed: eval/loss >= 0 (" in passed.stderr
    assert "Gate passed: eval/loss < 1e9 (" in passed.stderr
    job = json.loads(passed.stdout)
    assert "alias\tbest\n" in grouptune("jobs", "show", job["id"]).stdout
    told = [one["message"] for one in json.loads(grouptune("jobs", "events", job["id"], "--json").stdout)]
    assert f"The alias best names {job['fine_tuned_model']} now" in told


def test_a_job_is_paused_resumed_and_cancelled_and_whoever_waits_is_told(
    grouptune: Run, start_grouptune: Start, long_job: Callable[[], str]
) -> None:
    running, queued = long_job(), long_job()
    assert grouptune("jobs", "pause", queued).stderr == f"{queued} is paused.\n"
    assert grouptune("jobs", "resume", queued).stderr == f"{queued} is queued.\n"
    impatient = grouptune("jobs", "wait", queued, "--timeout", "1s")
    assert (impatient.returncode, impatient.stdout) == (ExitCode.timeout, f"{queued}\n")
    with (
        start_grouptune("jobs", "wait", running) as detached,
        start_grouptune("jobs", "wait", queued, "--cancel-on-interrupt") as cancelling,
    ):
        for process, said in (
            (detached, f"Detached; {running} goes on. Come back with: grouptune jobs wait {running}\n"),
            (cancelling, f"Cancelling {queued}.\n"),
        ):
            assert process.stderr is not None
            assert process.stderr.readline()  # it waits now
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == ExitCode.interrupted
            assert process.stderr.read().endswith(said)
    assert grouptune("jobs", "wait", queued).returncode == ExitCode.job_cancelled
    assert f"{running} is still running, and will be cancelled" in grouptune("jobs", "cancel", running).stderr
    assert grouptune("jobs", "wait", running).returncode == ExitCode.job_cancelled
    again = grouptune("jobs", "cancel", running)
    assert again.returncode == ExitCode.error
    assert "nothing to cancel" in again.stderr


def test_a_job_with_a_broken_file_is_never_created(grouptune: Run, job_file: Callable[..., Path]) -> None:
    path = job_file()
    path.with_name("train.jsonl").write_bytes(broken_at_17())
    before = ids_of(grouptune, "jobs")
    done = grouptune("jobs", "create", "-f", path, "--wait")
    assert (done.returncode, done.stdout) == (ExitCode.error, "")
    assert "train.jsonl: line 17: " in done.stderr
    assert ids_of(grouptune, "jobs") == before


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
    before = ids_of(grouptune, "files")
    done = grouptune("jobs", "create", "-f", path)
    assert done.returncode == ExitCode.error
    assert "train.jsonl" in done.stderr
    assert "(training_file)" in done.stderr
    assert ids_of(grouptune, "files") == before


def test_who_cannot_reach_or_enter_the_server_is_told_how(grouptune: Run, tmp_path: Path) -> None:
    away = grouptune("jobs", "list", GROUPTUNE_URL="http://127.0.0.1:9")
    assert away.returncode == ExitCode.unreachable
    with http_server(lambda _: Reply(b"<html>", 502)) as proxy:
        assert grouptune("jobs", "list", GROUPTUNE_URL=proxy).returncode == ExitCode.unreachable
    for wrong in ("127.0.0.1:9", "http://[::1"):
        waiting = grouptune("jobs", "wait", "ftjob-1", GROUPTUNE_URL=wrong)
        assert waiting.returncode == ExitCode.unreachable
        assert "is not an address: " in waiting.stderr
    nowhere = grouptune("jobs", "list", "--state-dir", tmp_path)
    assert nowhere.returncode == ExitCode.unreachable
    assert "grouptune up" in nowhere.stderr
    keyless = grouptune("jobs", "list", GROUPTUNE_API_KEY=None)
    assert keyless.returncode == ExitCode.auth
    assert "GROUPTUNE_API_KEY" in keyless.stderr
    torn = grouptune("jobs", "list", GROUPTUNE_API_KEY="gt_live_\u00e9\nx")
    assert torn.returncode == ExitCode.auth
    assert torn.stderr.endswith("copy the key again.\n")
    assert grouptune("jobs", "list", GROUPTUNE_API_KEY="gt_live_wrong").returncode == ExitCode.auth
    assert grouptune("--version").stdout == f"grouptune {version('grouptune')}\n"
    misused = grouptune("jobs", "list", "--limit", "none")
    assert misused.returncode == ExitCode.usage
    assert misused.stderr.isascii(), "boxes are for terminals"


def test_an_unknown_base_model_cannot_be_pulled(grouptune: Run) -> None:
    done = grouptune("models", "pull", "gpt-9")
    assert done.returncode == ExitCode.error
    assert "smollm2-135m-instruct" in done.stderr
