"""Reports how a job ended: Markdown tables for people, JUnit XML and metrics for CI systems."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from app.cli.jobs import held_out
from app.cli.ui.formatting import clock, number, one_line
from app.client import Json
from app.core.jobs.state_machine import TERMINAL

VERDICTS: Final = {True: "passed", False: "failed", None: "not decided"}
COUNTED: Final = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}
"""Attribute of a test suite to the element that it counts."""
_NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that an XML document cannot contain, not even escaped."""


@dataclass(frozen=True)
class JobReport:
    """Report of a job that has ended, or that had not ended when the wait timed out."""

    job: Json
    values: dict[str, float]
    """Metrics of the last step."""

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the last step, overridden by the held-out metrics of the published model."""
        return self.values | self._held_out("after")

    @property
    def seconds(self) -> float | None:
        """Seconds that workers have run the job, without the queue; None if none has, and while it has not ended."""
        return None if self.job["finished_at"] is None else self.job["progress"]["run_seconds"]

    def markdown(self) -> str:
        """Render tables of the job, its held-out results and its gates."""
        job, progress = self.job, self.job["progress"]
        rows = {
            "Status": held_out.status(job),
            "Verdict": held_out.reason(job),
            "Control": held_out.control(job),
            "Job": f"`{job['id']}`",
            "Base model": job["model"],
            "Model": job["fine_tuned_model"],
            "Steps": f"{progress['step']}/{progress['total_steps'] or '?'}",
            "Duration": None if self.seconds is None else clock(self.seconds),
            "Error": (job["error"] or {}).get("message"),
        }
        parts = [_table(("Fine-tuning", ""), [(name, value) for name, value in rows.items() if value is not None])]
        before, after = held_out.result(job, "before"), held_out.result(job, "after")
        results = [
            (name, held_out.value(before, name), held_out.value(after, name)) for name in self._held_out("after")
        ]
        if results:
            parts.append(_table(("Held out", "before", "after"), results))
        gates = [
            (gate["gate"], VERDICTS[gate["passed"]], number(gate["value"], missing=""), gate["reason"])
            for gate in job["gates"]
        ]
        if gates:
            parts.append(_table(("Gate", "", "value", "reason"), gates))
        return "\n\n".join(parts) + "\n"

    def junit(self) -> str:
        """Render JUnit XML with one test case for the job and one per gate.

        A job that missed a gate was trained successfully, so only the test case of the gate fails.
        """
        suite = ET.Element("testsuite", name="grouptune")
        created = datetime.fromtimestamp(self.job["created_at"], UTC)
        suite.set("timestamp", created.strftime("%Y-%m-%dT%H:%M:%S"))
        self._job_case(suite)
        for gate in self.job["gates"]:
            case = ET.SubElement(suite, "testcase", classname="grouptune.gates", name=_xml(gate["gate"]), time="0")
            reason = _xml(gate["reason"] or "The job ended before this gate was evaluated.")
            if gate["passed"] is None:
                ET.SubElement(case, "skipped", message=reason)
            elif not gate["passed"]:
                ET.SubElement(case, "failure", type="gate_failed", message=reason)
            else:
                ET.SubElement(case, "system-out").text = reason
        for total, kind in COUNTED.items():
            suite.set(total, str(sum(1 for _ in suite.iter(kind))))
        suite.set("time", f"{self.seconds or 0:.0f}")
        root = ET.Element("testsuites")
        root.append(suite)
        ET.indent(root)
        return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"

    def _job_case(self, suite: ET.Element) -> None:
        job, status = self.job, self.job["status"]
        case = ET.SubElement(suite, "testcase", classname="grouptune", name="job", time=f"{self.seconds or 0:.0f}")
        error = job["error"] or {}
        if status not in TERMINAL:
            kind, message = "timeout", f"{job['id']} did not end in time. It is {status} and continues."
        elif status == "cancelled":
            kind, message = "cancelled", f"{job['id']} was cancelled."
        elif error.get("code", "gate_failed") != "gate_failed":
            kind, message = error["code"], error["message"]
        else:
            text = f"{job['id']} {job['fine_tuned_model'] or ''}".strip()
            verdict = held_out.verdict_of(job)
            ET.SubElement(case, "system-out").text = (
                text if verdict is None else f"{text} {verdict}: {held_out.reason(job)}"
            )
            return
        ET.SubElement(case, "error", type=kind, message=_xml(message))

    def _held_out(self, when: str) -> dict[str, float]:
        values = held_out.result(self.job, when).get("values", {})
        return {name: value for name, value in values.items() if value is not None}


def _table(head: tuple[str, ...], rows: Sequence[tuple[str | None, ...]]) -> str:
    lines = [head, ("---",) * len(head), *([_cell(cell or "") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Put text on one line and escape what could end the cell or start HTML."""
    return one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _xml(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
