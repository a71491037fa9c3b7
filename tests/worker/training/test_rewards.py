"""Grading with the real grader pool: what happens to failed grades, and when a job gives up."""

import json
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from queue import SimpleQueue
from typing import Any

import pytest

from app.core.chat.tokenizer import ChatTokenizer
from app.core.graders.run import ExternalServices, Grade, GraderPool
from app.core.spec.advantages import group_advantages
from app.core.spec.graders import EndpointGrader, MultiGrader, StringCheckGrader
from app.core.spec.job import GroupMix, Sampling
from app.core.spec.reports import Source, TrainerExit
from tests.http_server import Received, Reply, http_server
from tests.worker.training.architectures import randomise
from worker.training.groups import build_groups
from worker.training.metrics import group_records
from worker.training.model import Policy
from worker.training.rewards import MAX_ERROR_RATE, WINDOW, GraderHealth, Grading, set_imitation_advantages
from worker.training.rollouts.rows import PaddedRows
from worker.training.rollouts.sampler import Sampler
from worker.training.types import GroupMember, JobFailure, Prompt, PromptGroup

# Reads a field of the response as JSON: a response that is not JSON cannot be graded.
GRADER = StringCheckGrader(
    name="exact", input="{{sample.output_json.answer}}", reference="{{item.reference_answer}}", operation="eq"
)
RIGHT, WRONG, BROKEN = '{"answer": "4"}', '{"answer": "5"}', "four"


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(GRADER) as opened:
        yield opened


def group(*texts: str, reference: str | None = "4") -> PromptGroup:
    """The first text is the demonstration, the second a teacher's, the rest are rollouts."""
    sources = [Source.expert, Source.teacher, *[Source.self] * len(texts)]
    members = [GroupMember(source, (1, 2), text, finished=True) for source, text in zip(sources, texts, strict=False)]
    item = {} if reference is None else {"reference_answer": reference}
    return PromptGroup(Prompt(1, "2+2=", (1,), (), item), members)


def graded(pool: GraderPool, *groups: PromptGroup) -> GraderHealth:
    health = GraderHealth()
    grading = Grading(pool)
    for one in groups:
        for member in one.members:
            grading.add(one.prompt, member)
    grading.finish(list(groups), health)
    return health


def test_demonstrations_are_graded_too(pool: GraderPool) -> None:
    one = group(WRONG, RIGHT, WRONG, RIGHT)
    graded(pool, one)
    assert [member.reward for member in one.members] == [0.0, 1.0, 0.0, 1.0]
    assert [member.advantage for member in one.members] == group_advantages([0.0, 1.0, 0.0, 1.0])
    expert = one.members[0]
    assert expert.advantage is not None
    assert expert.advantage < 0  # a wrong demonstration is trained down
    assert expert.scores == {"exact": 0.0}


def test_members_are_graded_by_their_own_row(pool: GraderPool) -> None:
    four, five = group(RIGHT, WRONG), group(RIGHT, WRONG, reference="5")
    graded(pool, four, five)
    assert [[member.reward for member in one.members] for one in (four, five)] == [[1.0, 0.0], [0.0, 1.0]]


def test_failed_grade_leaves_its_group(pool: GraderPool) -> None:
    one = group(RIGHT, BROKEN, WRONG, RIGHT)
    health = graded(pool, one)
    failed = one.members[1]
    assert (failed.reward, failed.advantage) == (None, None)
    assert failed.error is not None
    assert "not JSON" in failed.error
    assert failed not in one.graded
    assert [member.advantage for member in one.graded] == group_advantages([1.0, 0.0, 1.0])
    assert not one.zero_variance
    assert health.errors == 1


def test_ungradable_group_trains_nothing(pool: GraderPool) -> None:
    lost, kept = group(RIGHT, WRONG, reference=None), group(RIGHT, WRONG)
    health = graded(pool, lost, kept)
    assert lost.graded == []
    assert lost.zero_variance
    assert "does not exist in this row" in str(lost.members[0].error)
    assert len(kept.graded) == 2
    assert health.errors == 2


@pytest.mark.parametrize("texts", [(RIGHT, RIGHT, RIGHT), (WRONG, WRONG)])
def test_equal_rewards_have_no_advantage(pool: GraderPool, texts: tuple[str, ...]) -> None:
    one = group(*texts)
    graded(pool, one)
    assert one.zero_variance
    assert [member.advantage for member in one.members] == [0.0] * len(texts)


def test_contrast_ignores_failed_members(pool: GraderPool) -> None:
    one = group(RIGHT, BROKEN, RIGHT)
    graded(pool, one)
    assert one.zero_variance


OK = Grade(reward=0.0)
FAILED = Grade(reward=None, error="grader 'exact': division by zero")


def test_too_many_grader_errors_fail_the_job() -> None:
    health = GraderHealth()
    allowed = int(MAX_ERROR_RATE * WINDOW)
    for grade in [OK] * (WINDOW - allowed) + [FAILED] * allowed:
        health.note(1, grade)
    with pytest.raises(JobFailure, match="division by zero") as caught:
        health.note(17, FAILED)
    assert (caught.value.exit_code, caught.value.code) == (TrainerExit.bad_data, "grader_errors")
    assert f"{allowed + 1} of the last {WINDOW} grades failed (lines 1, 17)" in str(caught.value)


def note_all(health: GraderHealth, grades: list[tuple[int, Grade]]) -> None:
    for line, grade in grades:
        health.note(line, grade)


AWAY = Grade(reward=None, error="grader 'endpoint': the server answered 503", is_transient=True)


@pytest.mark.parametrize(
    ("works", "code", "rows"), [(True, "grader_rows_failed", (3, 5)), (False, "grader_unavailable", ())]
)
def test_unavailable_grader_is_waited_for(works: bool, code: str, rows: tuple[int, ...]) -> None:
    probed: list[set[int]] = []

    def grades_other_rows(lines: Collection[int]) -> bool:
        probed.append(set(lines))
        return works

    health = GraderHealth(grades_other_rows)
    with pytest.raises(JobFailure, match="answered 503") as caught:
        note_all(health, [((3, 5)[number % 2], AWAY) for number in range(WINDOW)])
    assert (caught.value.exit_code, caught.value.code, caught.value.rows) == (TrainerExit.dependency_down, code, rows)
    assert probed == [{3, 5}]


def test_grader_that_is_also_at_fault_fails_the_job() -> None:
    health = GraderHealth(lambda _lines: pytest.fail("an outage does not explain these errors"))
    with pytest.raises(JobFailure) as caught:
        note_all(health, [(1, grade) for grade in [FAILED, *[AWAY] * WINDOW]])
    assert caught.value.exit_code == TrainerExit.bad_data


@pytest.mark.parametrize("works", [True, False])
def test_step_without_a_grade_is_waited_for(works: bool) -> None:
    """A short job has fewer grades than the limit of errors. A row on which the server fails costs its group only."""
    health = GraderHealth(lambda _lines: works)
    health.check_step([])
    health.check_step([(1, OK), (1, AWAY)])
    health.check_step([(1, AWAY), (2, FAILED)])
    with nullcontext() if works else pytest.raises(JobFailure, match="answered 503") as caught:
        health.check_step([(1, AWAY), (1, AWAY)])
    if caught is not None:
        assert (caught.value.exit_code, caught.value.code) == (TrainerExit.dependency_down, "grader_unavailable")


def test_a_tenth_of_errors_is_tolerated() -> None:
    health = GraderHealth()
    for number in range(5 * WINDOW):
        health.note(1, FAILED if number % 10 == 0 else OK)
    assert health.errors == WINDOW // 2


def test_short_ungradable_job_fails(pool: GraderPool) -> None:
    """Fewer grades than the window holds, and not one of them is a reward."""
    with pytest.raises(JobFailure, match="not JSON"):
        graded(pool, *[group(*[BROKEN] * 8) for _ in range(4)])


def test_imitation_advantage_is_one() -> None:
    one = group(RIGHT)
    set_imitation_advantages([one])
    assert [member.advantage for member in one.members] == [1.0]
    assert [member.reward for member in one.members] == [None]
    assert not one.zero_variance


def test_remote_grading_starts_during_rollouts() -> None:
    arrived: SimpleQueue[str] = SimpleQueue()

    def answer(request: Received) -> Reply:
        [one] = json.loads(request.body)["samples"]
        arrived.put(one["sample"]["output_text"])
        return Reply(b'{"results": [{"reward": 0.5}]}')

    with http_server(answer) as url:
        parts: dict[str, Any] = {"server": EndpointGrader(url=url), "exact": GRADER}
        multi = MultiGrader(graders=parts, calculate_output="server + exact")
        with GraderPool(multi, ExternalServices(allowed_private_hosts=("127.0.0.1",))) as pool:
            one, grading = group(RIGHT, WRONG), Grading(pool)
            grading.add(one.prompt, one.members[0])
            assert arrived.get(timeout=120) == RIGHT  # and the second member is still being written
            grading.add(one.prompt, one.members[1])
            grading.finish([one], GraderHealth())
    assert [member.reward for member in one.members] == [1.5, 0.5]
    assert one.members[0].scores == {"server": 0.5, "exact": 1.0, "multi": 1.5}
    [record] = group_records([one])
    assert record.members[1].scores == {"server": 0.5, "exact": 0.0, "multi": 0.5}


def test_local_grading_waits_for_rollouts(pool: GraderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    submit = pool.submit

    def listening(pairs: Sequence[Any]) -> Any:
        sent.append(len(pairs))
        return submit(pairs)

    monkeypatch.setattr(pool, "submit", listening)
    one, grading = group(RIGHT, WRONG), Grading(pool)
    for member in one.members:
        grading.add(one.prompt, member)
    assert sent == []
    grading.finish([one], GraderHealth())
    assert sent == [2]


def test_remote_grading_overlaps_sampling(
    chat_policy: Policy, chat_tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sampler waits, in the middle of its work, until the server has a rollout; the server, until it is done."""
    arrived, written = threading.Event(), threading.Event()
    early: list[str] = []

    def answer(request: Received) -> Reply:
        [one] = json.loads(request.body)["samples"]
        if not written.is_set():
            early.append(one["sample"]["output_text"])
        arrived.set()
        written.wait(60)
        return Reply(b'{"results": [{"reward": 0.5}]}')

    sampler = Sampler(randomise(chat_policy), chat_tokenizer.end_ids, chat_tokenizer.pad_id)
    drawn: list[GroupMember] = []
    step = PaddedRows.step

    def listening(*arguments: Any) -> Any:
        assert not drawn or arrived.wait(240)
        return step(*arguments)

    monkeypatch.setattr(PaddedRows, "step", listening)
    prompt = Prompt(1, "2+2=", chat_tokenizer.prompt_ids([{"role": "user", "content": "2+2="}]), (), {})
    with (
        http_server(answer) as url,
        GraderPool(EndpointGrader(url=url), ExternalServices(allowed_private_hosts=("127.0.0.1",))) as pool,
    ):
        grading = Grading(pool)

        def on_member(of: Prompt, member: GroupMember) -> None:
            drawn.append(member)
            grading.add(of, member)

        mix, sampling = GroupMix(expert=0, teacher=0, self_=48), Sampling(max_tokens=48, temperature=2.0)
        groups = build_groups([prompt], mix, sampling, sampler, chat_tokenizer, 7, 1, on_member=on_member)
        finished_early = [member.text for member in drawn if member.finished]
        written.set()
        grading.finish(groups, GraderHealth())
    assert finished_early
    assert set(early) <= {member.text for member in drawn}
    assert early
    assert [member.reward for member in groups[0].members] == [0.5] * 48


def test_idle_cores_grade_during_rollouts(pool: GraderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    submit = pool.submit

    def listening(pairs: Sequence[Any]) -> Any:
        sent.append(len(pairs))
        return submit(pairs)

    monkeypatch.setattr(pool, "submit", listening)
    one, grading = group(RIGHT, WRONG), Grading(pool, has_idle_cores=True)
    for member in one.members:
        grading.add(one.prompt, member)
    assert sent == [1, 1]
    grading.finish([one], GraderHealth())
    assert [member.reward for member in one.members] == [1.0, 0.0]
