"""`grouptune jobs wait` and `create --wait` in CI: outputs, reports, timeouts and interrupts."""

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
    """Return the environment of a step of a GitHub workflow."""
    return {
        "GITHUB_ACTIONS": "true",
        "GITHUB_WORKSPACE": str(tmp_path),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }


def outputs(step: dict[str, str]) -> dict[str, str]:
    """Parse the outputs of a step as the runner does; the last value of a name wins."""
    values: dict[str, str] = {}
    lines = iter(Path(step["GITHUB_OUTPUT"]).read_text().splitlines())
    for line in lines:
        name, delimiter = line.split("<<")
        values[name] = "\n".join(iter(lambda: next(lines), delimiter))
    return values


def verdicts(path: Path) -> dict[str, str]:
    """Map each test case to the tag of its result."""
    root = ET.parse(path).getroot()  # noqa: S314 - our own
    return {case.attrib["name"]: case[0].tag for case in root.iter("testcase")}


def status_of(grouptune: Run, job_id: str) -> str:
    return str(json.loads(grouptune("jobs", "show", job_id, "--json").stdout)["status"])


def test_step_gets_outputs_and_reports(
    grouptune: Run, job_file: Callable[..., Path], tmp_path: Path, step: dict[str, str]
) -> None:
    path = job_file()
    files = ("--training-file", tmp_path / "train.jsonl", "--validation-file", tmp_path / "train.jsonl")
    reports = ("--junit", tmp_path / "reports" / "out.xml", "--summary", tmp_path / "out.md")
    gates = ("--gate", "eval/loss >= 0", "--gate", "eval/loss < -1")
    done = grouptune("jobs", "create", "-f", path, *files, *gates, *reports, "--wait", "--json", **step)
    assert done.returncode == ExitCode.gate_failed, done.stderr
    job = json.loads(done.stdout)
    step_outputs = outputs(step)
    assert (step_outputs["job-id"], step_outputs["model"]) == (job["id"], "")
    metrics = json.loads(step_outputs["metrics"])
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
    [annotation] = [line for line in done.stderr.splitlines() if line.startswith("::")]
    assert annotation.startswith("::error title=Gate failed::eval/loss < -1 (eval/loss is ")
    assert "Gate passed: eval/loss >= 0 (" in done.stderr
    assert (job["status"], job["error"]["code"]) == ("failed", "gate_failed")
    shown = grouptune("jobs", "show", job["id"]).stdout
    assert "gate passed\teval/loss >= 0\n" in shown
    assert "gate failed\teval/loss < -1\n" in shown
    messages = [event["message"] for event in json.loads(grouptune("jobs", "events", job["id"], "--json").stdout)]
    assert any(line.startswith("Gate failed: eval/loss < -1 (") for line in messages)


def test_invalid_rows_are_annotated(
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


def test_reports_need_wait(grouptune: Run, job_file: Callable[..., Path], tmp_path: Path) -> None:
    done = grouptune("jobs", "create", "-f", job_file(), "--junit", tmp_path / "out.xml")
    assert (done.returncode, done.stdout) == (ExitCode.usage, "")
    assert "Add --wait" in done.stderr


def test_key_errors_have_an_exit_code(grouptune: Run, job_file: Callable[..., Path]) -> None:
    reader = grouptune("keys", "create", "reader", "--scope", "jobs:read").stdout.strip()
    for key in (reader, "gt_live_wrong"):
        refused = grouptune("jobs", "create", "-f", job_file(), "--wait", GROUPTUNE_API_KEY=key)
        assert (refused.returncode, refused.stdout) == (ExitCode.auth, "")


def test_timeout_reports_a_continuing_job(
    grouptune: Run, long_job: Callable[[], str], tmp_path: Path, step: dict[str, str]
) -> None:
    job_id = long_job()
    done = grouptune("jobs", "wait", job_id, "--timeout", "2s", "--junit", tmp_path / "out.xml", **step)
    assert (done.returncode, done.stdout) == (ExitCode.timeout, f"{job_id}\n"), done.stderr
    assert f"{job_id} has not ended after 2 s. It continues." in done.stderr
    assert verdicts(tmp_path / "out.xml") == {"job": "error"}
    assert outputs(step)["job-id"] == job_id
    assert status_of(grouptune, job_id) in ("queued", "running")


def test_wait_and_create_survive_a_server_kill(
    grouptune: Run, start_grouptune: Start, long_job: Callable[[], str], job_file: Callable[..., Path], stack: Any
) -> None:
    job_id = long_job()
    path = job_file(rows=1000, batch_size=1, max_steps=100_000, n_epochs=50)  # outlasts the test
    with start_grouptune("jobs", "wait", job_id, "--follow") as waiting:
        assert waiting.stderr is not None
        output = waiting.stderr.readline()
        [api] = descendants("uvicorn")
        api.send_signal(signal.SIGKILL)
        creating = start_grouptune("jobs", "create", "-f", path, "--wait")
        health = stack.base_url.removesuffix("/v1") + "/readyz"

        def is_back() -> bool:
            try:
                return httpx.get(health, timeout=60).status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        api.wait(60)
        eventually(is_back)
        grouptune("jobs", "cancel", job_id)
        output += waiting.stderr.read()
        assert waiting.wait(240) == ExitCode.job_cancelled, output
        assert waiting.stdout is not None
        assert waiting.stdout.read() == f"{job_id}\n"
    with creating:
        assert creating.stderr is not None
        created = next(line.split()[1] for line in creating.stderr if line.startswith("Created "))
        grouptune("jobs", "cancel", created)
        printed, progress = creating.communicate(timeout=240)
    assert (creating.returncode, printed) == (ExitCode.job_cancelled, f"{created}\n"), progress
    # A longer outage adds a "Retrying" line.
    followed = [line.partition("  ")[2] for line in output.splitlines() if "Retrying" not in line]
    events = json.loads(grouptune("jobs", "events", job_id, "--limit", "100000", "--json").stdout)
    assert followed == [event["message"] for event in events]


def test_sigterm_cancels_the_job_on_request(
    grouptune: Run, start_grouptune: Start, long_job: Callable[[], str]
) -> None:
    """CI systems stop steps with SIGTERM; test_create covers Ctrl-C."""
    job_id = long_job()
    with start_grouptune("jobs", "wait", job_id, "--cancel-on-interrupt") as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline()  # it waits now
        waiting.send_signal(signal.SIGTERM)
        assert waiting.stderr.read().endswith(f"Cancelling {job_id}.\n")
        assert waiting.wait(240) == ExitCode.interrupted
        assert waiting.stdout is not None
        assert waiting.stdout.read() == ""
    eventually(lambda: status_of(grouptune, job_id) == "cancelled")
