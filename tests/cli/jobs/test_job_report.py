"""The report of a job as Markdown and as JUnit XML."""

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from app.cli.jobs.job_report import JobReport

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


def report(**changed: Any) -> JobReport:
    job: dict[str, Any] = {
        "id": "ftjob-1",
        "status": "succeeded",
        "model": "tiny",
        "fine_tuned_model": "ft:tiny:p::1",
        "created_at": 1_700_000_000,
        "finished_at": 1_700_009_000,
        "progress": {"step": 2, "total_steps": 2, "run_seconds": 246.9},
        "evaluation": {
            "before": {"values": {"eval/accuracy": 0.25, "eval/reward": None}},
            "after": {"values": {"eval/accuracy": 0.75}},
        },
        "gates": [],
        "error": None,
    }
    return JobReport(job | changed, {"loss": 0.5, "eval/accuracy": 0.5})


def suite(report: JobReport) -> ET.Element:
    root = ET.fromstring(report.junit())  # noqa: S314 - our own
    assert root.tag == "testsuites"
    [element] = root
    return element


def cases(report: JobReport) -> dict[str, list[str]]:
    """Map each test case to its child tags."""
    return {case.attrib["name"]: [part.tag for part in case] for case in suite(report)}


def test_metrics_prefer_the_published_model() -> None:
    assert report().metrics == {"loss": 0.5, "eval/accuracy": 0.75}
    assert report(evaluation=None).metrics == {"loss": 0.5, "eval/accuracy": 0.5}


@pytest.mark.parametrize(
    ("control", "shown"),
    [
        ({"reason": "GFT +7.0 points over SFT"}, "GFT +7.0 points over SFT"),
        ({"reason": None, "status": "running", "job_id": "ftjob-2"}, "supervised (ftjob-2, running)"),
        ({"reason": None, "status": None, "job_id": None}, "supervised (deleted)"),
    ],
)
def test_control_is_in_the_report(control: dict[str, Any], shown: str) -> None:
    assert f"| Control | {shown} |" in report(control={"method": "supervised"} | control).markdown()
    assert "Control" not in report(control=None).markdown()


def test_each_gate_is_a_test_case() -> None:
    both = report(gates=[PASSED, MISSED], status="failed", error={"code": "gate_failed", "message": "missed"})
    assert cases(both) == {"job": ["system-out"], PASSED["gate"]: ["system-out"], MISSED["gate"]: ["failure"]}
    counts = {name: suite(both).attrib[name] for name in ("tests", "failures", "errors", "skipped", "time")}
    assert counts == {"tests": "3", "failures": "1", "errors": "0", "skipped": "0", "time": "247"}


@pytest.mark.parametrize(
    ("changed", "kind", "message"),
    [
        (
            {"status": "failed", "error": {"code": "out_of_memory", "message": "no memory"}},
            "out_of_memory",
            "no memory",
        ),
        ({"status": "cancelled"}, "cancelled", "was cancelled"),
        ({"status": "running", "finished_at": None}, "timeout", "running and continues"),
    ],
)
def test_unsuccessful_job_is_an_error(changed: dict[str, Any], kind: str, message: str) -> None:
    done = report(gates=[OPEN], fine_tuned_model=None, evaluation=None, **changed)
    assert cases(done) == {"job": ["error"], OPEN["gate"]: ["skipped"]}
    [error] = suite(done).iter("error")
    assert error.attrib["type"] == kind
    assert message in error.attrib["message"]


def test_invalid_xml_characters_are_replaced() -> None:
    done = report(status="failed", error={"code": "x", "message": "a\x1b[31m\x00<b>&\ud800\n"})
    assert [error.attrib["message"] for error in suite(done).iter("error")] == ["a\ufffd[31m\ufffd<b>&\ufffd\n"]


def test_markdown_tables() -> None:
    lines = report(gates=[PASSED, MISSED]).markdown().splitlines()
    for line in (
        "| Status | succeeded |",
        "| Model | ft:tiny:p::1 |",
        "| Steps | 2/2 |",
        "| Duration | 4:07 |",
        "| eval/accuracy | 25.0% | 75.0% |",
        "| eval/loss &lt; 9 | passed | 1.5 | 1.5 |",
        "| eval/accuracy >= 0.8 | failed | 0.25 | 0.25 |",
    ):
        assert line in lines, lines


def test_worse_model_is_reported_everywhere() -> None:
    why = "Mean held-out reward on 50 rows fell"
    values = {"values": {"eval/accuracy": 0.5}, "intervals": {"eval/accuracy": [0.366, 0.634]}, "rows": 50}
    done = report(verdict="worse", comparison={"reason": why}, evaluation={"before": values, "after": values})
    lines = done.markdown().splitlines()
    assert {"| Status | succeeded, WORSE |", f"| Verdict | {why} |"} <= {*lines}
    assert "| eval/accuracy | 50.0% (36.6% to 63.4%) | 50.0% (36.6% to 63.4%) |" in lines
    assert f"WORSE: {why}" in done.junit()


def test_error_is_escaped_in_its_cell() -> None:
    lines = report(error={"code": "x", "message": "a | b\n\n# c <img src=x>"}).markdown().splitlines()
    assert "| Error | a \\| b # c &lt;img src=x> |" in lines
