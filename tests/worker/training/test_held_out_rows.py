"""The use of held-out rows: which select, which report, and what the job's events say about it."""

import random
from pathlib import Path

import pytest

from app.core.spec.reports import Finished, Message
from tests.tiny_model import write_pairs, write_rows
from tests.worker.training.runs import Job, evaluations, of_kind, results
from worker.training.held_out_rows import HeldOutRows, assign, sample_of
from worker.training.types import Prompt


def prompts(count: int) -> list[Prompt]:
    return [Prompt(line, "", (1,), (), {}) for line in range(1, count + 1)]


def lines(rows: HeldOutRows) -> tuple[set[int], set[int]]:
    return {row.line for row in rows.selection}, {row.line for row in rows.reporting}


def test_held_out_rows_are_a_sample() -> None:
    """A file that is sorted by topic is not judged on its first topic; 200 of 1,000 rows come from all its parts."""
    rows = prompts(1000)
    drawn = [row.line for row in sample_of(rows, 200)]
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 200
    assert all(30 <= sum(first < line <= first + 250 for line in drawn) <= 70 for first in (0, 250, 500, 750))
    assert sample_of(rows[:5], 200) == rows[:5]


def test_held_out_sample_is_stable() -> None:
    """A larger sample contains the smaller one, and a row that does not fit changes nothing for the others."""
    rows = prompts(100)
    ten = sample_of(rows, 10)
    assert {row.line for row in ten} < {row.line for row in sample_of(rows, 11)}
    without = [row for row in rows if row.line != ten[0].line]
    assert sample_of(without, 9) == ten[1:]


@pytest.mark.parametrize("count", [20, 21, 200, 1000])
def test_rows_are_halved(count: int) -> None:
    """No row does both, and each stretch of a sorted file is in both halves."""
    selecting, reporting = lines(assign(prompts(count), None, count))
    assert selecting | reporting == set(range(1, count + 1))
    assert not selecting & reporting
    assert abs(len(selecting) - len(reporting)) <= 1
    for half in (selecting, reporting):
        assert all(4 <= sum(start < line <= start + 10 for line in half) <= 6 for start in range(0, count - 9, 10))
    assert 0.3 * count < sum(line % 2 for line in selecting) * 2 < 0.7 * count


def test_a_row_keeps_its_use() -> None:
    """In a larger sample, and whichever other rows are usable: jobs with one file are compared on common rows."""
    selecting, reporting = lines(assign(prompts(400), None, 100))
    assert 35 < len(selecting) < 65
    more_selecting, more_reporting = lines(assign(prompts(400)[3:], None, 300))
    assert selecting - {1, 2, 3} <= more_selecting
    assert reporting - {1, 2, 3} <= more_reporting


def test_few_rows_are_not_split() -> None:
    rows = assign(prompts(19), None, 200)
    assert lines(rows) == (set(), set(range(1, 20)))
    message = rows.message()
    assert message is not None
    assert message.level == "warn"
    assert message.message.startswith("19 held-out rows: too few to select")
    assert message.data == {"selection_rows": 0, "reporting_rows": 19}


def test_test_file_reports() -> None:
    """All validation rows select; a line number means another row in each file."""
    rows = assign(prompts(30), prompts(70), 50)
    assert [len(one) for one in lines(rows)] == [30, 50]
    message = rows.message()
    assert message is not None
    assert (message.level, message.data) == ("info", {"selection_rows": 30, "reporting_rows": 50})
    assert "50 others of the test file" in message.message
    few = assign(prompts(30), prompts(3), 50).message()
    assert few is not None
    assert few.level == "warn"


def test_no_rows_need_no_message() -> None:
    assert assign([], None, 200).message() is None


def simulated(selecting: set[int], reporting: set[int], draw: random.Random) -> float:
    """The reported accuracy of the best of ten checkpoints that are equally good: each is right on 75 % of the rows.

    70 % of the rows agree between checkpoints.
    """

    def outcomes() -> dict[int, bool]:
        return {line: draw.random() < 0.75 for line in selecting | reporting}

    common = {line: right for line, right in outcomes().items() if draw.random() < 0.7}
    checkpoints = [outcomes() | common for _ in range(10)]
    best = max(checkpoints, key=lambda found: sum(found[line] for line in selecting))
    return sum(best[line] for line in reporting) / len(reporting)


@pytest.mark.parametrize("limit", [0.75, 0.8])
def test_best_of_ten_reports_like_a_single_look(limit: float) -> None:
    """A gate passes as often as with one checkpoint. Selecting on the same rows, it would pass far too often."""
    draw, repeats = random.Random(3), 300  # noqa: S311 - a simulation
    selecting, reporting = lines(assign(prompts(200), None, 200))

    def pass_rate(selecting: set[int]) -> float:
        return sum(simulated(selecting, reporting, draw) >= limit for _ in range(repeats)) / repeats

    looks = [sum(draw.random() < 0.75 for _ in reporting) / len(reporting) >= limit for _ in range(2000)]
    single = sum(looks) / len(looks)
    assert pass_rate(selecting) == pytest.approx(single, abs=0.08)
    assert pass_rate(reporting) > single + 0.2


def test_few_rows_report_the_last_adapter(tmp_path: Path, chat_directory: Path) -> None:
    """Nothing selects, so patience cannot end the run. The last evaluation is also the result."""
    held_out = write_rows(tmp_path / "rows.jsonl", 3, start=40)
    job = Job(tmp_path / "run", chat_directory, "supervised")
    _, reports = job.run(validation=held_out, patience=1, eval_interval=1)
    [finished] = of_kind(reports, Finished)
    assert finished.published_step == finished.step == 8
    assert "no held-out rows select one" in finished.reason
    assert not any(one.best for one in evaluations(reports))
    before, after = results(reports)
    assert [(one.step, one.rows.lines, one.selection_lines) for one in (before, after)] == [
        (0, (1, 2, 3), ()),
        (8, (1, 2, 3), ()),
    ]
    assert after.values == evaluations(reports)[-1].values
    assert any("too few" in one.message for one in of_kind(reports, Message))


def test_test_file_reports_in_a_dpo_run(tmp_path: Path, chat_directory: Path) -> None:
    """Its pairs have their own reference: before training, both models agree."""
    test = write_pairs(tmp_path / "test.jsonl", 4, start=60)
    job = Job(tmp_path / "run", chat_directory, "dpo", trainer={"test_path": str(test)})
    _, reports = job.run(max_steps=1)
    before, _ = results(reports)
    assert before.rows.lines == (1, 2, 3, 4)
    assert len(before.selection_lines) == 20
    assert before.values["eval/loss"] == pytest.approx(0.6931, abs=1e-4)
