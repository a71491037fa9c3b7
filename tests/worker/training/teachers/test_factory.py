"""Runs with teacher answers from a real server: requests, budget, caching, reports and failures."""

import json
import signal
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from app.core.chat.encoding import RowRules, rules_of
from app.core.chat.tokenizer import ChatTokenizer
from app.core.retry import RetryPolicy
from app.core.spec.job import GroupMix, Sampling
from app.core.spec.job import Teacher as TeacherSpec
from app.core.spec.reports import (
    CheckpointSaved,
    Failed,
    Finished,
    Groups,
    MemberRecord,
    Message,
    Metrics,
    Report,
    Source,
    TeacherAnswers,
    TrainerExit,
)
from app.core.spec.subprocess_environment import TEACHER_API_KEY
from app.core.spec.teacher_answers import Spent, TeacherBudget
from tests import tiny_model
from tests.http_server import Reply
from tests.teacher import Answer, Teacher, answer_sums, chat_completion, teacher
from tests.worker.training.runs import Job, of_kind, parse, read_until, trainer_process
from worker.training.batching import DataOrder
from worker.training.teachers.answers import TeacherAnswerCache
from worker.training.tokenize import load_prompts

MIX = GroupMix(expert=1, teacher=2, self_=1)
ROWS = 8


def write_rows(path: Path, own: Mapping[int, list[str]] | None = None, rows: int = ROWS) -> Path:
    """Additions; `own` are teacher responses that rows bring, by number."""
    with path.open("w", encoding="utf-8") as out:
        for number in range(rows):
            chat = [{"role": "user", "content": f"{number}+1="}, {"role": "assistant", "content": str(number + 1)}]
            row = {"messages": chat, "reference_answer": str(number + 1)}
            out.write(json.dumps(row | {"teacher_responses": (own or {}).get(number, [])}) + "\n")
    return path


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TEACHER_API_KEY, "canary-key")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl")


@pytest.fixture
def base(tmp_path: Path, chat_directory: Path) -> Job:
    return Job(tmp_path / "run", chat_directory, "gft", retry_policy=RetryPolicy(3, longest_wait_seconds=0.05))


def asking(job: Job, url: str, **fields: Any) -> Job:
    """The job with a teacher at `url`."""
    return job.sibling(
        fields.pop("name", "asking"), trainer={"teacher_url": url, "allowed_private_hosts": ("127.0.0.1",), **fields}
    )


def options(data: Path, **fields: Any) -> dict[str, Any]:
    """Of a run over two epochs."""
    group = fields.pop("group", MIX)
    spec = TeacherSpec(model="teacher", base_url="http://127.0.0.1/v1", **fields)
    return {"training": data, "group": group, "teacher": spec, "eval_interval": 100}


def run(job: Job, asked: Teacher, data: Path, **fields: Any) -> tuple[TrainerExit, list[Report]]:
    return asking(job, asked.url).run(**options(data, **fields))


def teacher_members(reports: list[Report]) -> dict[int, list[MemberRecord]]:
    """The teacher members by the line of their row, as they are in the last epoch."""
    return {
        group.row: [member for member in group.members if member.source is Source.teacher]
        for report in of_kind(reports, Groups)
        for group in report.groups
    }


def member_counts(reports: list[Report]) -> dict[int, int]:
    return {row: len(members) for row, members in teacher_members(reports).items()}


def failure(reports: list[Report]) -> Failed:
    [failed] = of_kind(reports, Failed)
    return failed


def events(reports: list[Report]) -> list[str]:
    return [report.message for report in of_kind(reports, Message)]


@pytest.mark.slow
def test_teacher_fills_missing_answers_once(tmp_path: Path, base: Job) -> None:
    data = write_rows(tmp_path / "own.jsonl", {0: ["one"], 1: ["one", "two", "three"]})
    with teacher() as asked:
        code, reports = run(base, asked, data)
        assert code is TrainerExit.succeeded
        assert asked.questions == {f"{number}+1=": 1 for number in range(ROWS) if number != 1}
        assert {request.headers["authorization"] for request in asked.requests} == {"Bearer canary-key"}
        first = next(body for body in asked.bodies if body["messages"][-1]["content"] == "2+1=")
        assert (first["model"], first["n"], first["max_tokens"], first["temperature"]) == ("teacher", 2, 6, 1.0)

        members = teacher_members(reports)
        assert [member.text for member in members[1]] == ["one", "1"]  # the row's own, then one that was asked for
        assert len(members[2]) == 2  # of three of its own
        assert {member.teacher and member.teacher.provider for member in members[2]} == {"file"}
        assert [member.text for member in members[3]] == ["3", "4"]
        origin = members[3][0].teacher
        assert origin is not None
        assert (origin.model, origin.provider, origin.cached) == ("teacher-2026", "127.0.0.1", False)
        assert (origin.prompt_tokens, origin.completion_tokens) == (10, 2)
        assert all(row.values["gft/timing/teacher"] is not None for row in of_kind(reports, Metrics)[1:])
        assert of_kind(reports, Metrics)[-1].values["gft/teacher/reward"] is not None

        kept = of_kind(reports, TeacherAnswers)
        assert kept[-1].spent == Spent(requests=7, tokens=13 * 12)
        assert "the job needs 13 answers, 0 of them are cached" in " ".join(events(reports))
        assert "7 of 7 rows, 7 requests and 156 tokens so far" in events(reports)[-1]

        # What the project has kept is used again, also by a job that wants more of it.
        known = tmp_path / "known.jsonl"
        known.write_text("".join(one.model_dump_json() + "\n" for report in kept for one in report.answers))
        again = asking(base, asked.url, name="again", teacher_answers_path=str(known), teacher_spent=kept[-1].spent)
        asked.requests.clear()
        code, reports = again.run(**options(data))
        assert (code, asked.requests) == (TrainerExit.succeeded, [])
        assert [(member.text, member.teacher and member.teacher.cached) for member in teacher_members(reports)[3]] == [
            ("3", True),
            ("4", True),
        ]
        assert of_kind(reports, TeacherAnswers) == []
        more = again.sibling("more")
        code, reports = more.run(**options(data, group=GroupMix(expert=1, teacher=3, self_=1)))
        assert code is TrainerExit.succeeded
        assert {body["messages"][-1]["content"]: body.get("n", 1) for body in asked.bodies}["2+1="] == 1
        assert of_kind(reports, TeacherAnswers)[-1].spent.requests == 7 + len(asked.requests)
        for path in base.run_dir.parent.rglob("spec.json"):
            assert "canary-key" not in path.read_text()


def flaky() -> Answer:
    """Each question is refused twice before it is answered: too many requests, then an outage."""
    seen: dict[str, int] = {}

    def answer(question: str, body: dict[str, Any]) -> Reply:
        seen[question] = seen.get(question, 0) + 1
        if seen[question] == 1:
            return Reply(b'{"error": "slow down"}', 429, {"retry-after": "0.01"})
        return Reply(b"oops", 503) if seen[question] == 2 else answer_sums(question, body)

    return answer


def without_n(question: str, body: dict[str, Any]) -> Reply:
    """As newer OpenAI models and smaller servers are: no `max_tokens`, no `n`."""
    if "max_tokens" in body:
        return Reply(b'{"error": {"message": "Use max_completion_tokens instead of max_tokens"}}', 400)
    return Reply(b'{"error": "n must be 1"}', 422) if "n" in body else answer_sums(question, body)


def one_at_a_time(question: str, body: dict[str, Any]) -> Reply:
    """Takes `n` and gives one answer all the same."""
    return answer_sums(question, {})


@pytest.mark.parametrize("answer", [flaky(), without_n, one_at_a_time], ids=["flaky", "without_n", "one_at_a_time"])
def test_busy_and_limited_servers_give_all_answers(base: Job, data: Path, answer: Answer) -> None:
    with teacher(answer) as asked:
        code, reports = run(base, asked, data)
    assert code is TrainerExit.succeeded
    assert member_counts(reports) == dict.fromkeys(range(1, ROWS + 1), 2)
    spent = of_kind(reports, TeacherAnswers)[-1].spent
    assert spent == Spent(requests=len(asked.requests), tokens=12 * 2 * ROWS)


@pytest.mark.parametrize(
    ("budget", "spent"),
    [
        # One answer is set aside as its prompt and 6 tokens, and costs 12; two cost 24.
        (TeacherBudget(tokens=100), lambda spent: spent.tokens <= 100),
        (TeacherBudget(requests=3), lambda spent: spent.requests == 3),
    ],
    ids=["tokens", "requests"],
)
def test_exhausted_budget_warns_and_continues(base: Job, data: Path, budget: TeacherBudget, spent: Any) -> None:
    with teacher() as asked:
        code, reports = run(base, asked, data, budget=budget)
    assert code is TrainerExit.succeeded
    assert spent(of_kind(reports, TeacherAnswers)[-1].spent)
    rows = [row for row, members in teacher_members(reports).items() if members]
    assert 0 < len(rows) < ROWS
    [warning] = [one for one in of_kind(reports, Message) if "budget is exhausted" in one.message]
    assert warning.level == "warn"


def test_budget_counts_earlier_attempts(base: Job, data: Path) -> None:
    with teacher() as asked:
        before = {"teacher_spent": Spent(requests=3, tokens=99)}
        code, reports = asking(base, asked.url, **before).run(**options(data, budget=TeacherBudget(requests=3)))
    assert (code, asked.requests) == (TrainerExit.succeeded, [])
    assert not any(teacher_members(reports).values())


def test_exhausted_budget_without_contrast_fails(base: Job, data: Path) -> None:
    with teacher() as asked:
        given = GroupMix(expert=1, teacher=2, self_=0)
        code, reports = run(base, asked, data, budget=TeacherBudget(requests=2), group=given)
    assert code is TrainerExit.bad_config
    failed = failure(reports)
    assert (failed.code, failed.param) == ("teacher_budget_spent", "method.gft.teacher.budget")
    assert "raise teacher.budget, or set group.self" in failed.message


def hostile(question: str, body: dict[str, Any]) -> Reply:
    """Something else for each row but the last two."""
    number = int(question[0])
    replies = [
        Reply(b"x" * 5_000_000),
        Reply(b'{"choices": ['),
        chat_completion("", ""),
        chat_completion("9\x00", "9\ud800", model="\x00" * 500, usage={"prompt_tokens": -5, "completion_tokens": True}),
        chat_completion("1234", "5678", finish="length"),
        chat_completion("8" * 500, "6"),
    ]
    return replies[number] if number < len(replies) else answer_sums(question, body)


def test_hostile_answers_are_reported(base: Job, data: Path) -> None:
    with teacher(hostile) as asked:
        code, reports = run(base, asked, data)
    assert code is TrainerExit.succeeded
    texts = {row: [member.text for member in members] for row, members in teacher_members(reports).items()}
    assert texts == {1: [], 2: [], 3: [], 4: ["9\ufffd", "9?"], 5: [], 6: ["6"], 7: ["7", "8"], 8: ["8", "9"]}
    kept = [one for report in of_kind(reports, TeacherAnswers) for one in report.answers]
    assert {one.content: one.finished for one in kept}[
        "1234"
    ] is False  # paid for, so it is stored and not requested again
    assert all(len(one.model) <= 256 and "\0" not in one.model for one in kept)
    assert "no further teacher answers for this row" in " ".join(events(reports))
    last = [one.data for one in of_kind(reports, Message) if one.data and "failed_rows" in one.data][-1]
    assert last is not None
    assert (last["failed_rows"], last["of"]) == (3, ROWS)


@pytest.mark.parametrize(
    ("reply", "code", "name", "message"),
    [
        (Reply(b"no canary-key", 401), TrainerExit.bad_config, "teacher_refused", "answered 401: no [key]. Check"),
        (Reply(b"<html>"), TrainerExit.bad_config, "teacher_unusable", "did not answer with JSON: <html>"),
        (Reply(b"later", 503), TrainerExit.dependency_down, "teacher_away", "answered 503: later"),
    ],
)
def test_failing_teacher_ends_the_attempt(
    base: Job, data: Path, reply: Reply, code: TrainerExit, name: str, message: str
) -> None:
    with teacher(lambda *_: reply) as asked:
        found, reports = run(base, asked, data)
    failed = failure(reports)
    assert (found, failed.code, failed.param, failed.rows) == (code, name, "method.gft.teacher", ())
    assert message in failed.message
    assert "canary-key" not in failed.message


def failing_on(numbers: Collection[int]) -> Answer:
    """A teacher that is busy whenever it gets one of these questions."""

    def answer(question: str, body: dict[str, Any]) -> Reply:
        return Reply(b"busy", 503) if int(question.split("+")[0]) in numbers else answer_sums(question, body)

    return answer


def test_few_rows_that_always_fail_are_given_up(base: Job, data: Path, tmp_path: Path) -> None:
    """In the first attempt, and in one that has the answers to all other rows."""
    bad, wanted = {2, 5}, options(data) | {"n_epochs": 1}
    with teacher(failing_on(bad)) as asked:
        code, first = asking(base, asked.url).run(**wanted)
        assert code is TrainerExit.succeeded
        known = tmp_path / "known.jsonl"
        kept = [one for report in of_kind(first, TeacherAnswers) for one in report.answers]
        known.write_text("".join(one.model_dump_json() + "\n" for one in kept))
        again = asking(base, asked.url, name="again", teacher_answers_path=str(known))
        code, second = again.run(**wanted)
    assert code is TrainerExit.succeeded
    for reports in (first, second):
        assert [line for line, count in member_counts(reports).items() if count == 0] == [3, 6]
    [warning] = [one for one in of_kind(second, Message) if "although others are answered" in one.message]
    assert warning.message.startswith("lines 3, 6: no further teacher answers")
    assert "answered 503: busy" in warning.message
    assert of_kind(second, TeacherAnswers)[-1].answers == ()  # the answer that proved it is not used


def test_many_rows_that_always_fail_end_the_attempt(base: Job, tmp_path: Path) -> None:
    bad = range(ROWS)
    data = write_rows(tmp_path / "more.jsonl", {ROWS: ["one", "two"]}, rows=ROWS + 1)  # the last row needs no teacher
    with teacher(failing_on(bad)) as asked:
        code, reports = run(base, asked, data)
    failed = failure(reports)
    assert (code, failed.code) == (TrainerExit.dependency_down, "teacher_rows_failed")
    assert failed.rows == tuple(number + 1 for number in bad)


def test_disallowed_and_unreachable_addresses(base: Job, data: Path) -> None:
    silent = "http://127.0.0.1:9/v1"
    code, reports = asking(base, silent, allowed_private_hosts=()).run(**options(data))
    assert (code, failure(reports).code) == (TrainerExit.bad_config, "teacher_refused")
    code, reports = asking(base, silent, name="silent").run(**options(data))
    assert (code, failure(reports).code) == (TrainerExit.dependency_down, "teacher_away")
    code, reports = asking(base, silent, name="theirs", allowed_private_hosts=(), teacher_is_operators=True).run(
        **options(data)
    )
    assert code is TrainerExit.dependency_down  # the operator's may be anywhere


@pytest.fixture
def slow(base: Job, data: Path, chat_tokenizer: ChatTokenizer) -> Iterator[tuple[Teacher, Event, Event]]:
    """A teacher that answers the first step's rows at once and other rows after an event; sets another event when all
    rows have been requested."""
    release, all_requested = Event(), Event()
    prompts = load_prompts(
        data, chat_tokenizer, RowRules(turns="last", max_length=2048, answers_later=True), lambda _: None
    )
    first = {prompt.text for prompt in DataOrder(prompts, 2, 2, base.seed).step(1)}

    def answer(question: str, body: dict[str, Any]) -> Reply:
        if len(asked.questions) == ROWS:  # the last one to arrive may be one of the first step's
            all_requested.set()
        if question not in first:
            release.wait(60)
        return answer_sums(question, body)

    with teacher(answer) as asked:
        yield asked, release, all_requested
        release.set()


@pytest.mark.slow
def test_answers_are_prefetched_during_training(base: Job, data: Path, slow: tuple[Teacher, Event, Event]) -> None:
    asked, release, all_requested = slow
    job = asking(base, asked.url)
    job.write(**options(data))
    with trainer_process(job) as process:
        read_until(process, Metrics, 1)  # the first step is made
        assert all_requested.wait(240)  # and the next ones' answers were asked for, and are not there
        release.set()
        assert process.stdout is not None
        rest = parse(process.stdout.read())
        assert process.wait() == TrainerExit.succeeded
    assert member_counts(rest) == dict.fromkeys(range(1, ROWS + 1), 2)


@pytest.mark.slow
def test_stop_while_waiting_for_the_teacher(base: Job, data: Path, slow: tuple[Teacher, Event, Event]) -> None:
    asked, _, all_requested = slow
    job = asking(base, asked.url)
    job.write(**options(data))
    with trainer_process(job) as process:
        read_until(process, Metrics, 1)
        assert all_requested.wait(240)
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        rest = parse(process.stdout.read())
        assert process.wait() == TrainerExit.stopped
    assert of_kind(rest, CheckpointSaved)[-1].step == 1
    assert of_kind(rest, Finished) == []


def test_question_key_is_a_content_address(base: Job, data: Path, chat_tokenizer: ChatTokenizer) -> None:
    """Another model, sampling, place or prompt is another question; the job's seed and name are not part of it."""

    def keys(job: Job, place: str, **fields: Any) -> set[str]:
        trainer = asking(job, place).write(**options(data, **fields))
        cache = TeacherAnswerCache(trainer, chat_tokenizer, lambda _: None)
        prompts = load_prompts(data, chat_tokenizer, rules_of(trainer.spec, None), lambda _: None)
        return {key for prompt in prompts for key in cache.keys(prompt)}

    one = keys(base, "https://a/v1")
    assert len(one) == 2 * ROWS
    assert keys(base.sibling("other", seed=8), "https://a/v1") == one
    assert keys(base, "https://a/v1", group=GroupMix(expert=1, teacher=1, self_=1)) < one
    assert keys(base, "https://b/v1").isdisjoint(one)
    assert keys(base, "https://a/v1", sampling=Sampling(temperature=0.5)).isdisjoint(one)


@pytest.mark.slow
def test_local_teacher_resumes_with_same_answers(base: Job, data: Path, tmp_path: Path) -> None:
    other = tiny_model.build(tmp_path / "bigger", seed=5)
    for number, model in enumerate((other, base.base)):
        job = base.sibling(f"local-{number}", trainer={"teacher_model_dir": str(model)})
        wanted = options(data, sampling=Sampling(max_tokens=6, temperature=2.0))
        code, reports = job.run(**wanted)
        assert code is TrainerExit.succeeded
        kept = [one for report in of_kind(reports, TeacherAnswers) for one in report.answers]
        assert len({one.key for one in kept}) == 2 * ROWS
        assert {(one.provider, one.model) for one in kept} == {("local", model.name)}
        first = next(index for index, report in enumerate(reports) if isinstance(report, Groups))
        assert not any(isinstance(report, TeacherAnswers) for report in reports[first:])
        # Sixteen random answers of six characters: few come to their end, and those that were cut off are left out.
        finished = {one.content for one in kept if one.finished and one.content.strip()}
        assert {member.text for members in teacher_members(reports).values() for member in members} <= finished

        # What a stopped run has kept is taken as it is, and what it lacks is drawn as it would have been.
        half = tmp_path / f"half-{number}.jsonl"
        half.write_text("".join(one.model_dump_json() + "\n" for one in kept[::2]))
        again = job.sibling(f"again-{number}", trainer={**job.trainer, "teacher_answers_path": str(half)})
        code, more = again.run(**wanted)
        assert code is TrainerExit.succeeded
        drawn = {one.key: one.content for report in of_kind(more, TeacherAnswers) for one in report.answers}
        assert drawn == {one.key: one.content for one in kept[1::2]}
        assert again.published == job.published
