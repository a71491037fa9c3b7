"""Teachers through real workers: answers outlive kills and jobs, and the key is seen by the teacher alone."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, text

from app.core import broker
from app.core.accounts.audit import Actor
from app.core.jobs import queries
from app.core.jobs.state_machine import JobStatus
from app.core.secrets import KeyRing, new_key
from app.core.spec.graders import StringCheckGrader
from app.core.spec.job import GroupMethod, GroupMix, Hyperparameters, JobSpec, MethodType, Sampling, Teacher
from app.core.spec.teacher_answers import TeacherBudget
from app.core.teachers import answer_cache, keys
from app.core.teachers.tables import StoredTeacherAnswer, TeacherKey
from tests.http_server import Reply
from tests.setup_jobs import make_file, make_job
from tests.teacher import answer_sums, teacher
from tests.waiting import eventually
from tests.worker.conftest import Plant
from tests.worker.test_tasks import trainers

CANARY = "sk-canary-0123456789"
GRADER = StringCheckGrader(input="{{sample.output_text}}", reference="{{item.reference_answer}}", operation="eq")
ROWS = 24


def submit(plant: Plant, url: str) -> str:
    """A queued gft job over rows without any teacher responses."""
    settings = GroupMethod(
        grader=GRADER,
        group=GroupMix(expert=1, teacher=2, self_=1),
        sampling=Sampling(max_tokens=4),
        teacher=Teacher(model="teacher", base_url=url, budget=TeacherBudget(requests=1000)),
        hyperparameters=Hyperparameters(batch_size=2, n_epochs=1, checkpoint_interval=1, max_length=64),
    )
    rows = [
        {
            "messages": [{"role": "user", "content": f"{n}+1="}, {"role": "assistant", "content": str(n + 1)}],
            "reference_answer": str(n + 1),
        }
        for n in range(ROWS)
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with plant.database.transaction() as session:
        file = make_file(session, plant.project)
        stored = plant.store.write(file.blob, [content])
        file.bytes, file.sha256 = stored.bytes, stored.sha256
        spec = JobSpec(model="tiny", method=MethodType.gft, settings=settings, seed=3)
        return make_job(session, plant.project, spec, file).id


def stored(plant: Plant) -> int:
    with plant.database.transaction() as session:
        return session.scalar(select(func.count()).select_from(StoredTeacherAnswer)) or 0


def everything_said(plant: Plant, job_id: str) -> str:
    """All that is kept of a job, its files and logs included."""
    with plant.database.transaction() as session:
        tables = ("jobs", "job_events", "job_attempts", "groups", "metrics", "teacher_answers", "audit_log")
        rows = [str(row) for table in tables for row in session.execute(text(f"SELECT * FROM {table}"))]  # noqa: S608
    files = [path for path in plant.directory.rglob("*") if path.is_file()]
    return "\n".join(rows) + "\n".join(path.read_bytes().decode(errors="replace") for path in files)


def test_teacher_answers_survive_a_kill(plant: Plant) -> None:
    secret = new_key()
    plant.environment |= {"GROUPTUNE_SECRET_KEYS": secret, "GROUPTUNE_ALLOWED_PRIVATE_HOSTS": "127.0.0.1"}
    go_on, lock = threading.Event(), threading.Lock()
    at_once: set[str] = set()
    held: set[str] = set()

    def answer(question: str, body: dict[str, Any]) -> Reply:
        """The first twelve questions are answered, the others when the trainer has been killed."""
        with lock:
            if not go_on.is_set():
                (at_once if len(at_once) < ROWS // 2 else held).add(question)
        if question in held:
            go_on.wait(90)
        return answer_sums(question, body)

    with teacher(answer) as asked, plant.train_worker(), plant.default_worker():
        with plant.database.transaction() as session:
            keys.put(session, Actor(plant.project), KeyRing((secret,)), f"{asked.url}/", CANARY)
            kept = session.scalars(select(TeacherKey)).one()
            assert CANARY.encode() not in kept.secret
            assert (kept.hint, kept.origin) == ("...6789", asked.url.removesuffix("/v1"))
        job_id = submit(plant, asked.url)
        broker.notify_training(plant.broker_url)
        # What was answered is in the database before anything else happens.
        eventually(lambda: stored(plant) == ROWS and len(held) == ROWS // 2, 90)
        [trainer] = trainers(job_id)
        os.kill(trainer, signal.SIGKILL)
        go_on.set()
        eventually(lambda: plant.job(job_id).crashes == 1, 30)
        plant.end_back_off(job_id)
        broker.notify_training(plant.broker_url)
        job = plant.wait_for(job_id, JobStatus.succeeded)
        assert set(asked.questions) == {f"{n}+1=" for n in range(ROWS)}
        assert {question for question, count in asked.questions.items() if count > 1} <= held
        assert {request.headers["authorization"] for request in asked.requests} == {f"Bearer {CANARY}"}
        assert job.teacher_usage is not None
        # Requests that were under way when the trainer was killed were counted or not, their answers are lost.
        assert ROWS <= job.teacher_usage["requests"] <= len(asked.requests) == ROWS + ROWS // 2
        assert job.teacher_usage["tokens"] == 24 * ROWS
        before = len(asked.requests)
        other = submit(plant, asked.url)
        broker.notify_training(plant.broker_url)
        assert plant.wait_for(other, JobStatus.succeeded).teacher_usage is None
        assert len(asked.requests) == before
    with plant.database.transaction() as session:
        messages = [event.message for event in queries.list_events(session, other, after=None, limit=100)[0]]
        assert "Teacher: the job needs 48 answers, 48 of them are cached" in messages
        answer_cache.forget_old(session)
        assert stored(plant) == 2 * ROWS
        session.execute(text("UPDATE teacher_answers SET used_at = now() - interval '91 days'"))
        answer_cache.forget_old(session)
    assert stored(plant) == 0
    assert CANARY not in everything_said(plant, job_id)


def test_unreadable_teacher_key_fails_the_job(plant: Plant) -> None:
    plant.environment |= {"GROUPTUNE_ALLOWED_PRIVATE_HOSTS": "127.0.0.1"}
    with teacher() as asked:
        with plant.database.transaction() as session:
            keys.put(session, Actor(plant.project), KeyRing((new_key(),)), asked.url, CANARY)
        job_id = submit(plant, asked.url)
        with plant.train_worker():
            broker.notify_training(plant.broker_url)
            failed = plant.wait_for(job_id, JobStatus.failed)
    assert failed.error is not None
    assert failed.error["code"] == "bad_setup"
    assert "GROUPTUNE_SECRET_KEYS" in failed.error["message"]
    assert asked.requests == []


def test_answer_lookups_are_chunked(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n\nno json\n' + '{"prompt": "b"}\n' * 600)
    found = list(answer_cache.question_keys(path, {"model": "m"}, GroupMix(teacher=3)))
    assert [len(chunk) for chunk in found] == [3 * 498, 3 * 103]
    assert len({key for chunk in found for key in chunk}) == 6
