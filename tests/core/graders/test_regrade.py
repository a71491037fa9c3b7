"""Regrading stored groups, compared with values computed by hand."""

import math

import pytest

from app.core.graders.regrade import StoredGroup, rank_correlation, regrade, summarise
from app.core.graders.toolbox import Toolbox
from app.core.spec.graders import PythonGrader, StringCheckGrader
from app.core.spec.reports import GroupRecord, MemberRecord, Source


def member(source: Source, text: str, reward: float | None, advantage: float | None) -> MemberRecord:
    return MemberRecord(
        source=source,
        text=text,
        tokens=1,
        reward=reward,
        advantage=advantage,
        rectified_frac=None,
        mean_p=None,
        finished=True,
        error="the first grader failed" if reward is None else None,
    )


def group(step: int, zero_variance: bool, *members: MemberRecord) -> StoredGroup:
    record = GroupRecord(idx=0, row=step, prompt="?", members=members, zero_variance=zero_variance)
    return StoredGroup(f"{step}-0", step, record, {"answer": "yes"})


GROUPS = (
    group(
        1,
        False,
        member(Source.expert, "yes", 0.0, -0.5),
        member(Source.teacher, "no", 0.0, -0.5),
        member(Source.self, "no", 0.0, -0.5),
        member(Source.self, "no", 1.0, 1.5),
    ),
    group(2, True, member(Source.expert, "yes", 1.0, 0.0), member(Source.self, "yes", None, None)),
)
SAME = StringCheckGrader(input="{{sample.output_text}}", reference="{{item.answer}}", operation="eq")


def test_rewards_and_advantages_by_hand() -> None:
    """Group 1 is now 1, 0, 0, 0: mean 0.25, sample deviation 0.5. Group 2 is 1, 1: no contrast."""
    with Toolbox() as tools:
        first, second = regrade(SAME, GROUPS, tools, 20.0)
    assert [pair.reward for pair in first.members] == [1.0, 0.0, 0.0, 0.0]
    assert [pair.advantage for pair in first.members] == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)
    assert (first.has_contrast, second.has_contrast) == (True, False)
    assert [pair.advantage for pair in second.members] == [0.0, 0.0]
    summary = summarise([first, second])
    assert (summary.groups, summary.members, summary.errors_before, summary.errors_after) == (2, 6, 1, 0)
    assert {name: (source.members, source.before, source.after) for name, source in summary.sources.items()} == {
        "expert": (2, 0.5, 1.0),
        "teacher": (1, 0.0, 0.0),
        "self": (3, 0.5, pytest.approx(1 / 3)),
    }
    assert (summary.no_contrast_before, summary.no_contrast_after) == (0.5, 0.5)
    assert (summary.compared_advantages, summary.changed_signs) == (5, 2)
    # Ranks 2 2 2 4.5 4.5 and 4.5 2 2 2 4.5 (from 1): covariance 1.25 over variance 7.5.
    assert summary.rank_correlation == pytest.approx(1 / 6)


def test_advantages_have_the_scaling_of_the_job() -> None:
    with Toolbox() as tools:
        first, _ = regrade(SAME, GROUPS, tools, 20.0, "none")
    assert [pair.advantage for pair in first.members] == [0.75, -0.25, -0.25, -0.25]


def test_ungradable_members_leave_their_group() -> None:
    source = "def grade(sample, item):\n    return 1.0 if sample['output_text'] == 'no' else 1 / 0\n"
    with Toolbox() as tools:
        regraded = regrade(PythonGrader(source=source), GROUPS, tools, 20.0)
    assert [pair.reward for pair in regraded[0].members] == [None, 1.0, 1.0, 1.0]
    assert [pair.advantage for pair in regraded[0].members] == [None, 0.0, 0.0, 0.0]
    summary = summarise(regraded)
    assert (summary.errors_after, summary.no_contrast_after) == (3, 1.0)
    assert "ZeroDivisionError" in summary.error_samples[0]
    assert summary.sources["expert"].after is None


def test_groups_are_graded_completely() -> None:
    slow = PythonGrader(source="def grade(sample, item):\n    while True:\n        pass\n")
    with Toolbox(workers=1) as tools:
        assert regrade(slow, GROUPS, tools, 0.0) == []
    assert summarise([]).no_contrast_before is None


def test_rank_correlation_uses_only_ranks() -> None:
    assert rank_correlation([(0.1, 1), (0.2, 10), (0.3, 1000)]) == pytest.approx(1)
    assert rank_correlation([(1, 3), (2, 2), (3, 1)]) == pytest.approx(-1)
    assert rank_correlation([(1, 3), (1, 2)]) is None
    assert rank_correlation([(1, 1)]) is None
    assert math.isfinite(rank_correlation([(1, 1), (1, 2), (2, 1)]) or 0)


def test_thoughts_and_calls_are_regraded_apart() -> None:
    whole = "<think>Two pairs.</think>4<tool_call>...</tool_call>"
    call = {"id": "call_0", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    parted = member(Source.self, whole, 0.0, 0.0).model_copy(
        update={"output_text": "4", "output_reasoning": "Two pairs.", "output_tools": (call,)}
    )
    stored = MemberRecord.model_validate_json(parted.model_dump_json())
    grader = PythonGrader(
        source="def grade(sample, item):\n"
        "    name = sample['output_tools'][0]['function']['name']\n"
        "    return float([sample['output_text'], sample['output_reasoning'], name] == ['4', 'Two pairs.', 'add'])\n"
    )
    with Toolbox(workers=1) as tools:
        [regraded] = regrade(grader, [group(1, False, stored)], tools, 30)
    assert [pair.reward for pair in regraded.members] == [1.0]
