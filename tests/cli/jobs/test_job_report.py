"""The outcome of a job as Markdown, as JUnit's XML and as marks in a GitHub workflow."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from app.cli.jobs.job_report import Outcome
from app.cli.ui import github

PASSED = {
    "gate": "eval/loss < 9",
    "metric": "eval/loss",
    "value": 1.5,
    "bound": 9.0,
    "passed": True,
    "reason": "1.5",
}
MISSED = {"gate": "eval/accuracy >= 0.8", "metric": "", "value": 0.25, "bound": 0.8, "passed": False, "reason": "0.25"}
OPEN = {"gate": "eval/reward > 0", "metric": "", "value": None, "bound": None, "passed": None, "reason": None}


def outcome(**changed: Any) -> Outcome:
    job: dict[str, Any] = {
        "id": "ftjob-1",
        "status": "succeeded",
        "model": "tiny",
        "fine_tuned_model": "ft:tiny:p::1",
        "created_at": 1_700_000_000,
        "finished_at": 1_700_000_247,
        "progress": {"step": 2, "total_steps": 2},
        "evaluation": {
            "before": {"values": {"eval/accuracy": 0.25, "eval/reward": None}},
            "after": {"values": {"eval/accuracy": 0.75}},
        },
        "gates": [],
        "error": None,
    }
    return Outcome(job | changed, {"loss": 0.5, "eval/accuracy": 0.5})


def suite(outcome: Outcome) -> ET.Element:
    root = ET.fromstring(outcome.junit())  # noqa: S314 - our own
    assert root.tag == "testsuites"
    [found] = root
    return found


def cases(outcome: Outcome) -> dict[str, list[str]]:
    """Test case -> the tags inside."""
    return {case.attrib["name"]: [part.tag for part in case] for case in suite(outcome)}


def test_metrics_are_those_of_the_last_step_and_of_the_published_model() -> None:
    assert outcome().metrics == {"loss": 0.5, "eval/accuracy": 0.75}
    assert outcome(evaluation=None).metrics == {"loss": 0.5, "eval/accuracy": 0.5}


def test_every_gate_is_a_test_case_beside_the_job() -> None:
    both = outcome(gates=[PASSED, MISSED], status="failed", error={"code": "gate_failed", "message": "missed"})
    assert cases(both) == {"job": ["system-out"], PASSED["gate"]: ["system-out"], MISSED["gate"]: ["failure"]}
    counts = {name: suite(both).attrib[name] for name in ("tests", "failures", "errors", "skipped", "time")}
    assert counts == {"tests": "3", "failures": "1", "errors": "0", "skipped": "0", "time": "247"}


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        (
            {"status": "failed", "error": {"code": "out_of_memory", "message": "no memory"}},
            "out_of_memory",
            "no memory",
        ),
        ({"status": "cancelled"}, "cancelled", "was cancelled"),
        ({"status": "running", "finished_at": None}, "timeout", "running and goes on"),
    ],
)
def test_a_job_that_did_not_succeed_is_an_error_and_its_gates_are_skipped(
    changed: dict[str, Any], kind: str, said: str
) -> None:
    done = outcome(gates=[OPEN], fine_tuned_model=None, evaluation=None, **changed)
    assert cases(done) == {"job": ["error"], OPEN["gate"]: ["skipped"]}
    [error] = suite(done).iter("error")
    assert error.attrib["type"] == kind
    assert said in error.attrib["message"]


def test_what_no_xml_can_hold_is_replaced() -> None:
    done = outcome(status="failed", error={"code": "x", "message": "a\x1b[31m\x00<b>&\ud800\n"})
    assert [one.attrib["message"] for one in suite(done).iter("error")] == ["a\ufffd[31m\ufffd<b>&\ufffd\n"]


def test_the_table_says_what_came_of_job_gates_and_held_out_rows() -> None:
    lines = outcome(gates=[PASSED, MISSED]).markdown().splitlines()
    for line in (
        "| Status | succeeded |",
        "| Model | ft:tiny:p::1 |",
        "| Steps | 2/2 |",
        "| Duration | 4:07 |",
        "| eval/accuracy | 0.25 | 0.75 |",
        "| eval/loss &lt; 9 | passed | 1.5 | 1.5 |",
        "| eval/accuracy >= 0.8 | failed | 0.25 | 0.25 |",
    ):
        assert line in lines, lines


def test_an_error_cannot_break_out_of_its_cell() -> None:
    lines = outcome(error={"code": "x", "message": "a | b\n\n# c <img src=x>"}).markdown().splitlines()
    assert "| Error | a \\| b # c &lt;img src=x> |" in lines


@pytest.fixture
def workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of a step, its workspace below the returned directory."""
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path / "work"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def test_marks_name_the_file_within_the_repository(workflow: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = workflow / "work" / "a,b" / "rows.jsonl"
    found: list[dict[str, Any]] = [
        {"line": 17, "param": "messages", "message": "50% wrong\nhere"},
        {"line": None, "param": None, "message": "x"},
    ]
    github.annotate(path, found, [{"line": 3, "param": None, "message": "long"}])
    github.annotate(workflow / "elsewhere.jsonl", [{"line": 1, "param": None, "message": "y"}] * 12, [])
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert lines[:3] == [
        "::error file=a%2Cb/rows.jsonl,line=17::50%25 wrong%0Ahere (messages)",
        "::error file=a%2Cb/rows.jsonl::x",
        "::warning file=a%2Cb/rows.jsonl,line=3::long",
    ]
    assert lines[3:] == [f"::error file={workflow}/elsewhere.jsonl,line=1::y"] * 10
    assert out == ""


def test_a_value_cannot_begin_another_output(workflow: Path) -> None:
    github.set_outputs(job_id="ftjob-1\nmodel<<EOF\nfake\nEOF", model="")
    first, *lines = (workflow / "output").read_text().splitlines()
    name, mark = first.split("<<")
    assert name == "job-id"
    assert lines[:5] == ["ftjob-1", "model<<EOF", "fake", "EOF", mark]
    assert lines[5].startswith("model<<")
    assert lines[5] != f"model<<{mark}"


def test_summaries_add_up_and_nothing_is_written_outside_of_a_workflow(
    workflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    github.add_summary("one")
    github.add_summary("two")
    assert (workflow / "summary").read_text() == "one\ntwo\n"
    monkeypatch.delenv("GITHUB_ACTIONS")
    github.set_outputs(model="x")
    github.hide("secret")
    assert not (workflow / "output").exists()
