"""The command in CI: what a step of a workflow gets, and how waiting ends."""

import json
import signal
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.cli.ui.exits import ExitCode
from tests.api.jobs import broken_at_17
from tests.cli.conftest import Run, Start
from tests.processes import descendants
from tests.waiting import eventually


@pytest.fixture
def step(tmp_path: Path) -> dict[str, str]:
    """The environment of a step of a GitHub workflow."""
    return {
        "GITHUB_ACTIONS": "true",
        "GITHUB_WORKSPACE": str(tmp_path),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }


def outputs(step: dict[str, str]) -> dict[str, str]:
    """The outputs of a step, as the runner reads them; the last value of a name holds."""
    found: dict[str, str] = {}
    lines = iter(Path(step["GITHUB_OUTPUT"]).read_text().splitlines())
    for line in lines:
        name, mark = line.split("<<")
        found[name] = "\n".join(iter(lambda: next(lines), mark))
    return found


def verdicts(path: Path) -> dict[str, str]:
    """Test case -> the tag that says how it went."""
    root = ET.parse(path).getroot()  # noqa: S314 - our own
    return {case.attrib["name"]: case[0].tag for case in root.iter("testcase")}


def status_of(grouptune: Run, job_id: str) -> str:
    return str(json.loads(grouptune("jobs", "show", job_id, "--json").stdout)["status"])


def test_a_workflow_s_step_gets_outputs_summary_and_test_cases(
    grouptune: Run, job_file: Callable[..., Path], tmp_path: Path, step: dict[str, str]
) -> None:
    path = job_file()
    files = ("--training-file", tmp_path / "train.jsonl", "--validation-file", tmp_path / "train.jsonl")
    reports = ("--junit", tmp_path / "reports" / "out.xml", "--summary", tmp_path / "out.md")
    gates = ("--gate", "eval/loss >= 0", "--gate", "eval/loss < -1")
    done = grouptune("jobs", "create", "-f", path, *files, *gates, *reports, "--wait", "--json", **step)
    assert done.returncode == ExitCode.gate_failed, done.stderr
    job = json.loads(done.stdout)
    said = outputs(step)
    assert (said["job-id"], said["model"]) == (job["id"], "")
    metrics = json.loads(said["metrics"])
    assert metrics["eval/loss"] == job["evaluation"]["after"]["values"]["eval/loss"]
    assert "loss" in metrics
    assert verdicts(tmp_path / "reports" / "out.xml") == {
        "job": "system-out",
        "eval/loss >= 0": "system-out",
        "eval/loss < -1": "failure",
    }
    summary = (tmp_path / "out.md").read_text()
    assert f"| Job | `{job['id']}` |" in summary
    assert (tmp_path / "summary.md").read_text() == summary + "\n"
    marks = [line for line in done.stderr.splitlines() if line.startswith("::")]
    [mark] = marks
    assert mark.startswith("::error title=Gate failed::eval/loss < -1 (eval/loss is ")
    assert "Gate passed: eval/loss >= 0 (" in done.stderr
    assert (job["status"], job["error"]["code"]) == ("failed", "gate_failed")
    shown = grouptune("jobs", "show", job["id"]).stdout
    assert "gate passed\teval/loss >= 0\n" in shown
    assert "gate failed\teval/loss < -1\n" in shown
    said_in_events = [one["message"] for one in json.loads(grouptune("jobs", "events", job["id"], "--json").stdout)]
    assert any(line.startswith("Gate failed: eval/loss < -1 (") for line in said_in_events)


def test_bad_rows_are_marked_where_they_are(
    grouptune: Run, job_file: Callable[..., Path], tmp_path: Path, step: dict[str, str]
) -> None:
    path = job_file()
    (tmp_path / "train.jsonl").write_bytes(broken_at_17())
    for words in (("jobs", "create", "-f", path, "--wait"), ("files", "upload", tmp_path / "train.jsonl", "--wait")):
        done = grouptune(*words, **step)
        assert done.returncode == ExitCode.error
        assert "\n::error file=train.jsonl,line=17::" in f"\n{done.stderr}"
        assert "::error" not in done.stdout
    assert not (tmp_path / "output").exists()


def test_reports_need_somebody_who_waits(grouptune: Run, job_file: Callable[..., Path], tmp_path: Path) -> None:
    done = grouptune("jobs", "create", "-f", job_file(), "--junit", tmp_path / "out.xml")
    assert (done.returncode, done.stdout) == (ExitCode.usage, "")
    assert "add --wait" in done.stderr


def test_a_key_without_the_scope_and_a_key_that_is_wrong_are_told_apart_from_other_errors(
    grouptune: Run, job_file: Callable[..., Path]
) -> None:
    reader = grouptune("keys", "create", "reader", "--scope", "jobs:read").stdout.strip()
    for key in (reader, "gt_live_wrong"):
        refused = grouptune("jobs", "create", "-f", job_file(), "--wait", GROUPTUNE_API_KEY=key)
        assert (refused.returncode, refused.stdout) == (ExitCode.auth, "")


def test_waiting_that_times_out_reports_a_job_that_goes_on(
    grouptune: Run, long_job: Callable[[], str], tmp_path: Path, step: dict[str, str]
) -> None:
    job_id = long_job()
    done = grouptune("jobs", "wait", job_id, "--timeout", "2s", "--junit", tmp_path / "out.xml", **step)
    assert (done.returncode, done.stdout) == (ExitCode.timeout, f"{job_id}\n"), done.stderr
    assert f"{job_id} has not ended after 2 s; it goes on." in done.stderr
    assert verdicts(tmp_path / "out.xml") == {"job": "error"}
    assert outputs(step)["job-id"] == job_id
    assert status_of(grouptune, job_id) in ("queued", "running")


def test_waiting_outlives_a_server_that_is_killed_and_so_does_beginning(
    grouptune: Run, start_grouptune: Start, long_job: Callable[[], str], job_file: Callable[..., Path], stack: Any
) -> None:
    job_id = long_job()
    path = job_file()
    with start_grouptune("jobs", "wait", job_id, "--follow") as waiting:
        assert waiting.stderr is not None
        said = waiting.stderr.readline()
        [api] = descendants("uvicorn")
        api.send_signal(signal.SIGKILL)
        beginning = start_grouptune("jobs", "create", "-f", path, "--wait")
        health = stack.base_url.removesuffix("/v1") + "/readyz"

        def is_back() -> bool:
            try:
                return httpx.get(health, timeout=5).status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        api.wait(10)
        eventually(is_back, 60)
        grouptune("jobs", "cancel", job_id)
        said += waiting.stderr.read()
        assert waiting.wait(60) == ExitCode.job_cancelled, said
        assert waiting.stdout is not None
        assert waiting.stdout.read() == f"{job_id}\n"
    with beginning:
        assert beginning.stderr is not None
        begun = next(line.split()[1] for line in beginning.stderr if line.startswith("Created "))
        grouptune("jobs", "cancel", begun)
        created, progress = beginning.communicate(timeout=90)
    assert (beginning.returncode, created) == (ExitCode.job_cancelled, f"{begun}\n"), progress
    # An absence of more than a blink is told of, too.
    told = [line.partition("  ")[2] for line in said.splitlines() if "Trying again" not in line]
    happened = json.loads(grouptune("jobs", "events", job_id, "--limit", "100000", "--json").stdout)
    assert told == [one["message"] for one in happened]


def test_a_step_that_is_stopped_cancels_its_job_when_told_to(
    grouptune: Run, start_grouptune: Start, long_job: Callable[[], str]
) -> None:
    """By SIGTERM, as CI systems stop steps; test_commands has Ctrl-C."""
    job_id = long_job()
    with start_grouptune("jobs", "wait", job_id, "--cancel-on-interrupt") as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline()  # it waits now
        waiting.send_signal(signal.SIGTERM)
        assert waiting.stderr.read().endswith(f"Cancelling {job_id}.\n")
        assert waiting.wait(30) == ExitCode.interrupted
        assert waiting.stdout is not None
        assert waiting.stdout.read() == ""
    eventually(lambda: status_of(grouptune, job_id) == "cancelled")
