"""Jobs that learn nothing: the early warning, the failure at the end, and both across a resume."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from app.core.spec.graders import PythonGrader, StringCheckGrader
from app.core.spec.job import GroupMix
from app.core.spec.reports import Failed, Message, Report, Source, TrainerExit
from tests.worker.training.runs import Job, of_kind
from worker.training.learning import LearningMonitor
from worker.training.optimizer import UpdateResult
from worker.training.policy_loss import PolicyLoss
from worker.training.types import GroupMember, JobFailure, Prompt, PromptGroup

NEVER = StringCheckGrader(name="never", input="{{sample.output_text}}", reference="no such answer", operation="eq")
PROMPT = Prompt(1, "", (1,), (), {})


def group(*rewards: float | None) -> PromptGroup:
    return PromptGroup(PROMPT, [GroupMember(Source.self, (2,), "", finished=True, reward=one) for one in rewards])


def update(norm: float = 0.0, *, applied: bool = False) -> UpdateResult:
    return UpdateResult(0.0, norm, 1, 0, None, applied)


def warnings(reports: list[Report]) -> list[str]:
    return [one.message for one in of_kind(reports, Message) if one.data == {"code": "nothing_learned"}]


@pytest.mark.parametrize(
    ("groups", "result", "reason"),
    [
        ([group(0.0, 0.0)], update(), "the grader gave the same reward, 0, to every answer (12 in all)"),
        ([group(0.0, 0.0), group(1.0, 1.0)], update(), "in every group (12 in all), all answers had the same reward"),
        ([group(1.0, None)], update(), "every group (6 in all) had a single graded answer"),
        ([group(None, None)], update(), "no answer was graded"),
        ([group(None)], update(applied=True), "every gradient was 0"),
        ([group(0.0, 1.0)], update(math.nan), "no gradient was finite"),
    ],
)
def test_reason_is_named(groups: list[PromptGroup], result: UpdateResult, reason: str) -> None:
    reports: list[Report] = []
    monitor = LearningMonitor(reports.append, total_steps=6, loss=PolicyLoss(0.0))
    for _ in range(6):
        monitor.note(groups, result)
    [warning] = warnings(reports)
    assert warning.startswith("The first 5 steps changed nothing: ")
    with pytest.raises(JobFailure, match=re.escape(reason)) as caught:
        monitor.check()
    assert caught.value.code == "nothing_learned"


def test_masked_rollouts_are_named() -> None:
    monitor = LearningMonitor(lambda _: None, 6, PolicyLoss(0.0, mask_truncated=True))
    cut_off = group(0.0, 1.0)
    for member in cut_off.members:
        member.finished = False
    for _ in range(6):
        monitor.note([cut_off], update())
    with pytest.raises(JobFailure, match=r"every rollout \(12 in all\) was cut off.* Raise sampling\.max_tokens"):
        monitor.check()


def test_one_update_is_enough() -> None:
    reports: list[Report] = []
    monitor = LearningMonitor(reports.append, total_steps=100, loss=PolicyLoss(0.0))
    for step in range(1, 101):
        monitor.note([group(0.0, 0.0)], update(0.1, applied=True) if step == 4 else update())
    monitor.check()
    assert reports == []


def test_warning_waits_longer_in_long_jobs() -> None:
    for total, patience in ((6, 5), (200, 10), (10_000, 25)):
        reports: list[Report] = []
        monitor = LearningMonitor(reports.append, total, PolicyLoss(0.0))
        for step in range(1, patience + 1):
            assert warnings(reports) == [], step
            monitor.note([group(0.0, 0.0)], update())
        assert len(warnings(reports)) == 1


def rows(path: Path) -> Path:
    lines = [{"prompt": f"{number}+1=", "completion": str(number + 1)} for number in range(8)]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def test_job_without_any_reward_fails(tmp_path: Path, chat_directory: Path) -> None:
    job = Job(tmp_path / "run", chat_directory)
    options: dict[str, Any] = {
        "grader": NEVER,
        "group": GroupMix(expert=1, teacher=0, self_=1),
        "training": rows(tmp_path / "rows"),
    }
    code, reports = job.run(**options)
    assert code is TrainerExit.bad_data
    [failed] = of_kind(reports, Failed)
    assert (failed.code, failed.param) == ("nothing_learned", "training_file")
    assert failed.message.startswith(
        "None of the 8 steps changed the model: the grader gave the same reward, 0, to every answer (32 in all)."
    )
    assert len(warnings(reports)) == 1

    code, resumed = job.sibling("resumed").run(resume_from=job.checkpoint(3), **options)
    assert code is TrainerExit.bad_data
    assert of_kind(resumed, Failed) == [failed]
    assert warnings(resumed) == warnings(reports)


def test_resumed_job_keeps_its_updates(tmp_path: Path, chat_directory: Path) -> None:
    job = Job(tmp_path / "run", chat_directory)
    same_for_all = PythonGrader(source="def grade(sample, item):\n  return float(item['reference_answer'] == '0')")
    whole, reports = job.run(checkpoint_interval=1)
    assert whole is TrainerExit.succeeded
    # From here on no answer is better than another, but the first steps have changed the adapter.
    code, resumed = job.sibling("resumed").run(resume_from=job.checkpoint(4), grader=same_for_all)
    assert code is TrainerExit.succeeded
    assert warnings(reports) == warnings(resumed) == []
