"""Jobs that train only the demonstrations that pass the grader: the same rows in every attempt, each graded once."""

import json
import threading
from pathlib import Path
from typing import Any, Final

import pytest

from app.core.chat.encoding import Turn
from app.core.graders.run import GraderPool
from app.core.spec.answers import ParsedAnswer
from app.core.spec.graders import PythonGrader
from app.core.spec.job import GroupMix
from app.core.spec.reports import DemonstrationsGraded, Failed, Groups, Report, Started, TrainerExit
from tests.worker.training.runs import GRADER, Job, messages, of_kind
from worker.training.demonstrations import PART, DemonstrationGrades, before_grading
from worker.training.types import Prompt

RIGHT: Final = (True, False, True, True, False, True)


def write(path: Path, right: tuple[bool, ...] = RIGHT) -> Path:
    rows = [
        {"prompt": f"{number}+1=", "completion": str(result if is_right else 0), "reference_answer": str(result)}
        for number, (is_right, result) in enumerate(zip(right, range(2, 100), strict=False), start=1)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(job: Job, training: Path, **options: Any) -> tuple[TrainerExit, list[Report]]:
    return job.run(training=training, demonstrations="graded", n_epochs=1, **options)


def experts(reports: list[Report]) -> list[str]:
    members = [member for step in of_kind(reports, Groups) for group in step.groups for member in group.members]
    return sorted(member.text for member in members if member.source == "expert")


def test_supervised_leaves_out_failing_rows(chat_directory: Path, tmp_path: Path) -> None:
    training = write(tmp_path / "rows.jsonl")
    job = Job(tmp_path / "run", chat_directory, "supervised")
    code, reports = run(job, training, batch_size=1)
    assert code is TrainerExit.succeeded
    assert experts(reports) == ["2", "4", "5", "7"]
    [started] = of_kind(reports, Started)
    assert started.total_steps == 4
    assert started.rows["rows"] == {"used": 4, "dropped": {"demonstration_rejected": 2}}
    first, last = of_kind(reports, DemonstrationsGraded)
    assert (first.counts.total, first.counts.graded, first.rejected) == (6, 0, ())
    assert last.counts.model_dump() == {"total": 6, "passed": 4, "failed": 2, "errors": 0}
    assert last.rejected == (2, 5)
    assert [one.message for one in messages(reports)] == [
        "2 of 6 demonstrations fail the grader (lines 2, 5). The job trains without them"
    ]

    # A later attempt knows the grades: a grader that passes nothing would refuse the job if it graded again.
    known = {"demonstrations": last.counts, "rejected_lines": last.rejected, "rows": started.rows}
    never = PythonGrader(name="exact", source="def grade(sample, item):\n    return 0.0\n")
    later = job.sibling("later", trainer=known)
    code, reports = run(later, training, batch_size=1, grader=never, resume_from=job.checkpoint(2))
    assert code is TrainerExit.succeeded
    assert later.published == job.published
    assert not of_kind(reports, DemonstrationsGraded)
    assert messages(reports) == []


def test_gft_groups_lose_their_expert(chat_directory: Path, tmp_path: Path) -> None:
    """A row without teacher answers keeps its rollouts; without rollouts it is left out."""
    training = write(tmp_path / "rows.jsonl", (True, False))
    with training.open("a") as stream:
        row = {"prompt": "7+1=", "completion": "0", "teacher_responses": ["8", "9"], "reference_answer": "8"}
        stream.write(json.dumps(row) + "\n")
    code, reports = run(Job(tmp_path / "mixed", chat_directory), training, group=GroupMix(expert=1, teacher=2, self_=2))
    assert code is TrainerExit.succeeded
    sources = {
        group.row: [str(member.source) for member in group.members]
        for step in of_kind(reports, Groups)
        for group in step.groups
    }
    assert sources == {1: ["expert", "self", "self"], 2: ["self", "self"], 3: ["teacher", "teacher", "self", "self"]}

    code, reports = run(Job(tmp_path / "given", chat_directory), training, group=GroupMix(expert=1, teacher=2, self_=0))
    assert code is TrainerExit.succeeded
    [started] = of_kind(reports, Started)
    assert started.rows["rows"] == {"used": 2, "dropped": {"demonstration_rejected": 1}}


@pytest.mark.parametrize("method", ["supervised", "gft"])
def test_no_passing_demonstration_fails_the_job(method: str, chat_directory: Path, tmp_path: Path) -> None:
    training = write(tmp_path / "rows.jsonl", (False, False))
    code, reports = run(Job(tmp_path / "run", chat_directory, method), training)
    [failed] = of_kind(reports, Failed)
    assert code is TrainerExit.bad_data
    assert failed.code == "no_demonstration_passes"
    assert "2 of 2 demonstrations fail the grader (lines 1, 2). Change the grader" in failed.message
    assert not of_kind(reports, Started)


def prompts(right: list[bool]) -> list[Prompt]:
    turn = Turn((1,), (2,), "x")
    return [
        Prompt(line, "?", (1,), (), {"reference_answer": "1"}, turns=(turn,), demonstration=ParsedAnswer(str(int(ok))))
        for line, ok in enumerate(right, start=1)
    ]


def test_stopped_grading_continues_where_it_stopped() -> None:
    """Grades that were reported are not computed again, and the result is that of one run."""
    rows = prompts([line % 3 != 0 for line in range(2 * PART + 5)])
    stop, reports = threading.Event(), list[Report]()

    def report(one: Report) -> None:
        reports.append(one)
        if isinstance(one, DemonstrationsGraded) and one.counts.graded:
            stop.set()

    seconds = iter(range(0, 1000, 10))  # each part is reported
    with GraderPool(GRADER) as pool:
        first = DemonstrationGrades(rows, None, (), report, clock=lambda: next(seconds))
        assert not first.complete(pool, stop)
        assert (first.counts.total, first.counts.graded) == (len(rows), PART)
        lines = [line for one in of_kind(reports, DemonstrationsGraded) for line in one.rejected]
        second = DemonstrationGrades(rows, first.counts, lines, reports.append)
        assert second.complete(pool, threading.Event())
        whole = DemonstrationGrades(rows, None, (), lambda _report: None)
        assert whole.complete(pool, threading.Event())
    assert second.counts == whole.counts
    assert second.rejected == whole.rejected == {line for line in range(1, len(rows) + 1) if line % 3 == 1}


def test_errors_count_as_rejected() -> None:
    source = "def grade(sample, item):\n    return 1.0 / int(sample['output_text'])\n"
    reports = list[Report]()
    grades = DemonstrationGrades(prompts([True, False]), None, (), reports.append)
    with GraderPool(PythonGrader(name="inverse", source=source)) as pool:
        assert grades.complete(pool, threading.Event())
    assert grades.counts.model_dump() == {"total": 2, "passed": 1, "failed": 0, "errors": 1}
    assert grades.rejected == {2}
    [message] = messages(reports)
    assert message.level == "warn"
    assert message.message.startswith("1 of 2 demonstrations cannot be graded (grader 'inverse'")


def test_rows_before_grading() -> None:
    use = {"used": 3, "dropped": {"no_answer": 1, "demonstration_rejected": 2}}
    assert before_grading(use) == {"used": 5, "dropped": {"no_answer": 1}}
    assert before_grading(None) is None
