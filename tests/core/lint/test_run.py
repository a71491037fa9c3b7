"""Lint forecasts the signal of a file's groups, with real graders and real files."""

import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from app.core.files.validation import validate_file
from app.core.graders.run import GraderPool
from app.core.lint.report import LintReport
from app.core.lint.run import IN_BACKGROUND, Budget, lint_file, why_not
from app.core.lint.training_signal import Tally, chance_of_contrast
from app.core.spec.graders import BaseGrader, EndpointGrader, PythonGrader, StringCheckGrader
from app.core.spec.job import GroupMethod, GroupMix, JobSpec, MethodType
from tests.setup_jobs import supervised

EXACT = StringCheckGrader(input="{{sample.output_text}}", reference="{{item.right}}", operation="eq")


def row(expert: str | None, *teachers: str, right: str = "2") -> dict[str, Any]:
    completion = {} if expert is None else {"completion": expert}
    return {"prompt": "1+1=", **completion, "teacher_responses": list(teachers), "right": right}


def lint(
    path: Path,
    rows: Iterable[Any],
    mix: GroupMix,
    *,
    grader: BaseGrader = EXACT,
    budget: Budget = IN_BACKGROUND,
    until: Callable[[Tally], bool] = lambda _tally: False,
) -> LintReport:
    path.write_text("".join(json.dumps(fields) + "\n" for fields in rows))
    with GraderPool(grader) as pool:
        return lint_file(path, validate_file(path), pool, mix, budget, until=until)


@pytest.mark.parametrize("expert", [None, 0.0, 1.0])
@pytest.mark.parametrize("teachers", [(), (1.0,), (0.0, 1.0), (1.0, 1.0, 0.0), (0.5, 0.5 + 1e-9, 0.5, 0.2, 1.0)])
def test_chance_of_contrast_equals_enumeration(expert: float | None, teachers: tuple[float, ...]) -> None:
    for drawn in range(6):
        experts = [] if expert is None else [expert]
        groups = [
            [*experts, *drawn_rewards] for drawn_rewards in itertools.combinations(teachers, min(drawn, len(teachers)))
        ]
        differing = sum(len(group) > 1 and max(group) - min(group) > 1e-6 for group in groups) / len(groups)
        assert chance_of_contrast(expert, teachers, drawn) == pytest.approx(differing)


def test_findings_have_line_numbers(tmp_path: Path) -> None:
    rows = [
        row("2", "2", "3"),
        row("2", "2", "2"),
        row("3", "2", "3"),
        row("2"),
        row(None, "3", "3"),
        row("2", "3", right="other"),
    ]
    report = lint(tmp_path / "rows", rows, GroupMix(expert=1, teacher=1, self_=2))
    assert (report.rows, report.rows_graded, report.sample, report.stopped) == (6, 6, "all 6 rows", False)
    # rows 1 and 3 draw an answer with a different reward half of the time
    assert report.signal_share == pytest.approx((0.5 + 0.5) / 6)
    assert report.signal_share_limit == 1
    assert not report.teaches_nothing
    assert report.groups.model_dump() == {"contrast": 2, "same": 2, "few": 2}
    assert (report.experts.graded, report.experts.passed, report.experts.mean_reward) == (5, 3, 0.6)
    assert [(finding.line, finding.param) for finding in report.errors] == [(3, "completion"), (6, "completion")]
    assert "earns 0 and a teacher answer 1, so training would move away" in report.errors[0].message
    assert [finding.line for finding in report.warnings] == [2, 6]
    assert [(bin.start, bin.end, bin.answers) for bin in report.rewards] == [(0, 0, 7), (1, 1, 7)]
    assert [(answer.line, answer.source, answer.text, answer.reward) for answer in report.worst[:3]] == [
        (1, "teacher", "3", 0),
        (3, "expert", "3", 0),
        (3, "teacher", "3", 0),
    ]
    assert [answer.reward for answer in report.worst] == [0] * 7 + [1] * 3
    assert "2 of 5 demonstrations fail" in report.summary()
    assert LintReport.model_validate(report.model_dump(mode="json", by_alias=True)) == report


def test_flat_file_without_rollouts_has_no_signal(tmp_path: Path) -> None:
    mix = GroupMix(expert=1, teacher=2, self_=0)
    flat = [row("2", "2", "2"), row("3", "3", "3"), row("3")]
    report = lint(tmp_path / "rows", flat, mix)
    assert report.teaches_nothing
    assert (report.signal_share, report.signal_share_limit) == (0, 0)
    assert "line 1: all 3 known answers of the group earn 1; line 2:" in report.refusal()
    saved = lint(tmp_path / "rows", [*flat, row("2", "2", "5")], mix)
    assert (saved.signal_share_limit, saved.teaches_nothing) == (0.25, False)
    # a group of one member trains by its reward
    assert lint(tmp_path / "rows", [row("2")], mix).signal_share == 1


def test_ungradable_answers_are_errors(tmp_path: Path) -> None:
    source = "def grade(sample, item):\n    return 1 / len(sample['output_text'].replace('x', ''))\n"
    report = lint(tmp_path / "rows", [row("x", "y"), row("y", "x")], GroupMix(), grader=PythonGrader(source=source))
    assert (report.experts.errors, report.teachers.errors, report.groups.few) == (1, 1, 2)
    assert [finding.param for finding in report.errors] == ["completion", "teacher_responses[0]"]
    assert all("ZeroDivisionError" in finding.message for finding in report.errors)


def test_large_file_is_sampled_deterministically(tmp_path: Path) -> None:
    rows = [row("2" if number % 3 else "3", right="2") for number in range(400)]
    budget = Budget(answers=50, seconds=60)
    report = [lint(tmp_path / "rows", rows, GroupMix(), budget=budget) for _ in range(2)]
    assert report[0] == report[1]
    assert report[0].rows_graded == 50
    assert "50 of 400 rows, a fixed random sample (seed 0)" in report[0].sample
    assert all(finding.line is not None and (finding.line - 1) % 3 == 0 for finding in report[0].errors)


def test_hanging_grader_stays_within_the_budget(tmp_path: Path) -> None:
    endless = PythonGrader(source="def grade(sample, item):\n    while True:\n        pass\n")
    report = lint(tmp_path / "rows", [row("2")] * 300, GroupMix(), grader=endless, budget=Budget(1000, 0.5))
    assert report.stopped
    assert report.rows_graded < 300
    assert not report.teaches_nothing
    assert "until time ran out" in report.summary()


def test_search_ends_at_the_first_signal(tmp_path: Path) -> None:
    mix = GroupMix(expert=1, teacher=1, self_=0)
    report = lint(tmp_path / "rows", [row("2", "3")] * 400, mix, until=lambda tally: tally.has_signal)
    assert 0 < report.rows_graded < 400
    assert report.signal_share_limit == 1


def test_unsuitable_jobs_are_not_linted() -> None:
    def gft(group: GroupMix, grader: Any = EXACT) -> JobSpec:
        settings = GroupMethod(grader=grader, group=group)
        return JobSpec(model="tiny", method=MethodType.gft, settings=settings, seed=1)

    assert why_not(gft(GroupMix())) is None
    assert "no groups" in str(why_not(supervised()))
    assert "only rollouts" in str(why_not(gft(GroupMix(expert=0, teacher=0, self_=4))))
    assert "cost money" in str(why_not(gft(GroupMix(), EndpointGrader(url="https://x.example"))))


def test_tool_calls_are_linted_as_graders_read_them(tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"n": 2}'}}
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    rows = [{"messages": [{"role": "user", "content": "1+1="}, called], "teacher_responses": ["2"], "right": "add"}]
    grader = PythonGrader(
        source="def grade(sample, item):\n"
        "    calls = sample['output_tools']\n"
        "    return float(bool(calls) and calls[0]['function']['name'] == item['right'])\n"
    )
    report = lint(tmp_path / "rows.jsonl", rows, GroupMix(expert=1, teacher=1, self_=0), grader=grader)
    assert report.groups.contrast == 1
    assert report.errors == ()
