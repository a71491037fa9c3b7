"""Teachers through real workers: answers survive kills and are shared by jobs; only the teacher receives the key."""

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
    """Create a queued gft job over rows without teacher responses."""
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


def everything_stored(plant: Plant, job_id: str) -> str:
    """Return everything that is stored about a job, including its files and logs."""
    with plant.database.transaction() as session:
        tables = ("jobs", "job_events", "job_attempts", "groups", "metrics", "teacher_answers", "audit_log")
        rows = [str(row) for table in tables for row in session.execute(text(f"SELECT * FROM {table}"))]  # noqa: S608
    files = [path for path in plant.directory.rglob("*") if path.is_file()]
    return "\n".join(rows) + "\n".join(path.read_bytes().decode(errors="replace") for path in files)


def test_teacher_answers_survive_a_kill(plant: Plant) -> None:
    """SIGKILL loses no stored answer, and another job with the same rows sends no request."""
    secret = new_key()
    plant.environment |= {"GROUPTUNE_SECRET_KEYS": secret, "GROUPTUNE_ALLOWED_PRIVATE_HOSTS": "127.0.0.1"}
    release, lock = threading.Event(), threading.Lock()
    answered: set[str] = set()
    held: set[str] = set()

    def answer(question: str, body: dict[str, Any]) -> Reply:
        """Answer the first twelve questions at once, and the others after the trainer was killed."""
        with lock:
            if not release.is_set():
                (answered if len(answered) < ROWS // 2 else held).add(question)
        if question in held:
            release.wait(90)
        return answer_sums(question, body)

    with teacher(answer) as server, plant.train_worker(), plant.default_worker():
        with plant.database.transaction() as session:
            keys.put(session, Actor(plant.project), KeyRing((secret,)), f"{server.url}/", CANARY)
            stored_key = session.scalars(select(TeacherKey)).one()
            assert CANARY.encode() not in stored_key.secret
            assert (stored_key.hint, stored_key.origin) == ("...6789", server.url.removesuffix("/v1"))
        job_id = submit(plant, server.url)
        broker.notify_training(plant.broker_url)
        # Answers are stored as they arrive, while the other requests still wait.
        eventually(lambda: stored(plant) == ROWS and len(held) == ROWS // 2)
        [trainer] = trainers(job_id)
        os.kill(trainer, signal.SIGKILL)
        release.set()
        eventually(lambda: plant.job(job_id).crashes == 1)
        plant.end_back_off(job_id)
        broker.notify_training(plant.broker_url)
        job = plant.wait_for(job_id, JobStatus.succeeded)
        assert set(server.questions) == {f"{n}+1=" for n in range(ROWS)}
        assert {question for question, count in server.questions.items() if count > 1} <= held
        assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {CANARY}"}
        assert job.teacher_usage is not None
        # Answers in flight when the trainer was killed are lost; their requests may or may not have been counted.
        assert ROWS <= job.teacher_usage["requests"] <= len(server.requests) == ROWS + ROWS // 2
        assert job.teacher_usage["tokens"] == 24 * ROWS
        before = len(server.requests)
        other = submit(plant, server.url)
        broker.notify_training(plant.broker_url)
        assert plant.wait_for(other, JobStatus.succeeded).teacher_usage is None
        assert len(server.requests) == before
    with plant.database.transaction() as session:
        messages = [event.message for event in queries.list_events(session, other, after=None, limit=100)[0]]
        assert "Teacher: the job needs 48 answers, 48 of them are cached" in messages
        answer_cache.forget_old(session)
        assert stored(plant) == 2 * ROWS
        session.execute(text("UPDATE teacher_answers SET used_at = now() - interval '91 days'"))
        answer_cache.forget_old(session)
    assert stored(plant) == 0
    assert CANARY not in everything_stored(plant, job_id)


def test_unreadable_teacher_key_fails_the_job(plant: Plant) -> None:
    plant.environment |= {"GROUPTUNE_ALLOWED_PRIVATE_HOSTS": "127.0.0.1"}
    with teacher() as server:
        with plant.database.transaction() as session:
            keys.put(session, Actor(plant.project), KeyRing((new_key(),)), server.url, CANARY)
        job_id = submit(plant, server.url)
        with plant.train_worker():
            broker.notify_training(plant.broker_url)
            failed = plant.wait_for(job_id, JobStatus.failed)
    assert failed.error is not None
    assert failed.error["code"] == "bad_setup"
    assert "GROUPTUNE_SECRET_KEYS" in failed.error["message"]
    assert server.requests == []


def test_answer_lookups_are_chunked(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n\n' + '{"prompt": "b"}\n' * 600)
    chunks = list(answer_cache.question_keys(path, {"model": "m"}, GroupMix(teacher=3)))
    assert [len(chunk) for chunk in chunks] == [3 * 500, 3 * 101]
    assert len({key for chunk in chunks for key in chunk}) == 6
