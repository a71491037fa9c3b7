"""The broker forgets everything and goes away; Postgres is killed with -9 while jobs run and clients ask."""

import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import redis
from sqlalchemy import func, select

from app.core import broker, migrate
from app.core.db import Database
from app.core.jobs import invariants, queries
from app.core.jobs.state_machine import JobStatus
from app.core.jobs.tables import Job, JobAttempt
from app.core.settings import Settings
from app.local.postgres import EmbeddedPostgres
from app.local.valkey import EmbeddedValkey
from tests import forked
from tests.api.jobs import GRADER
from tests.api.server import new_key
from tests.api.test_api_killed import free_port, serve
from tests.chaos.clock import Clock, quantile
from tests.setup_jobs import make_file, make_project
from tests.waiting import eventually
from tests.worker.conftest import Plant

STEPS = 3
MESSAGES = 10
POSTS = 100
JOB_SECONDS = 3.0
"""Of the clock for each job, at least."""


@contextmanager
def api(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a server of its own process on the plant's engines."""
    for name, value in plant.environment.items():
        monkeypatch.setenv(name, value)
    values = Settings().model_dump(mode="json", exclude_none=True, exclude={"database_url", "redis_url"})
    values |= {"DATABASE_URL": plant.environment["DATABASE_URL"], "REDIS_URL": plant.environment["REDIS_URL"]}
    port = free_port()
    process = forked.start(serve, values, port)
    try:
        eventually(lambda: _answers(port), 30.0)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.join()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.HTTPError:
        return False


def counts(plant: Plant) -> dict[str, int]:
    with plant.database.transaction() as session:
        found = session.execute(select(Job.status, func.count()).group_by(Job.status))
        return {row[0]: row[1] for row in found}


def assert_all_ended_well(plant: Plant, jobs: list[str]) -> int:
    """Every job has succeeded, with every row once; returns how many attempts it took."""
    with plant.database.transaction() as session:
        assert invariants.breaches(session, plant.store.exists) == []
        for job_id in jobs:
            assert session.get_one(Job, job_id).status == JobStatus.succeeded
            assert [one.step for one in queries.list_metrics(session, job_id)] == list(range(1, STEPS + 1))
        return session.scalar(select(func.count()).select_from(JobAttempt)) or 0


def test_row_5_the_broker_forgets(plant: Plant, clock: Clock) -> None:
    total = max(30, min(200, int(clock.seconds / 0.6)))
    jobs = [plant.tell(f"train:{STEPS}") for _ in range(total)]
    flushes = 0
    with plant.default_worker(), plant.quick_worker("one"), plant.quick_worker("two"), _client(plant) as client:
        while counts(plant).get(JobStatus.succeeded, 0) < total:
            for _ in range(MESSAGES):
                broker.notify_training(plant.broker_url)
            time.sleep(random.uniform(0, 2))  # noqa: S311 - anywhere in the life of a message
            client.flushall()
            flushes += 1
    attempts = assert_all_ended_well(plant, jobs)
    assert attempts == total
    clock.note(jobs=total, flushes=flushes, attempts=attempts, jobs_lost_or_run_twice=0)


def _client(plant: Plant) -> redis.Redis:
    return redis.Redis(unix_socket_path=plant.broker_url.removeprefix("redis+socket://"))


def test_row_6_the_broker_is_away(plant: Plant, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="gt-") as scratch:
        valkey = EmbeddedValkey(Path(scratch))
        valkey.start()
        plant = replace(plant, environment=plant.environment | {"REDIS_URL": valkey.url}, broker_url=valkey.url)
        with plant.database.transaction() as session:
            file_id = make_file(session, plant.project).id
        key = new_key(plant.database, plant.project)
        body = {"model": "tiny", "training_file": file_id, "metadata": {"behaviour": f"train:{STEPS}"}}
        try:
            with plant.default_worker(), plant.quick_worker(), api(plant, monkeypatch) as url:
                valkey.stop()
                begun = time.monotonic()
                took: list[float] = []
                with httpx.Client(headers={"authorization": f"Bearer {key}"}) as client:
                    while len(took) < POSTS or time.monotonic() - begun < min(clock.seconds, 600):
                        sent = time.monotonic()
                        answer = client.post(f"{url}/v1/fine_tuning/jobs", json=body)
                        took.append(time.monotonic() - sent)
                        assert answer.status_code == 200, answer.text
                        time.sleep(0.02 if len(took) < POSTS else 1.0)  # the pace of clients while it stays away
                away = time.monotonic() - begun
                valkey.start()
                back = time.monotonic()
                eventually(lambda: _started(plant), 60.0)
                waited = time.monotonic() - back
        finally:
            valkey.stop()
    assert waited <= 20
    clock.note(outage_s=round(away), posts=len(took), errors=0, post_p95_ms=round(1000 * quantile(took, 0.95)))
    clock.note(first_job_started_after_s=round(waited, 1))


def _started(plant: Plant) -> bool:
    with plant.database.transaction() as session:
        return bool(session.scalar(select(func.count()).select_from(JobAttempt)))


def test_row_7_postgres_is_killed(
    plant: Plant, tiny_models: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="gt-") as scratch:
        Path(scratch).chmod(0o711)
        postgres = EmbeddedPostgres(Path(scratch) / "pg")
        postgres.start()
        migrate.upgrade(postgres.url)
        database = Database(postgres.url)
        with database.transaction() as session:
            project = make_project(session)
        key = new_key(database, project)
        plant = replace(
            plant,
            database=database,
            project=project,
            environment=plant.environment | {"DATABASE_URL": postgres.url},
        )
        total = max(20, min(100, int(clock.seconds / JOB_SECONDS)))
        jobs = [plant.tell(f"train:{STEPS}") for _ in range(total)]
        answers, over = Counter[int](), threading.Event()
        away: list[float] = []
        try:
            with (
                plant.default_worker(),
                plant.quick_worker("one"),
                plant.quick_worker("two"),
                api(plant, monkeypatch) as url,
            ):
                asker = threading.Thread(target=_ask, args=(url, key, answers, over))
                asker.start()
                while len(away) < 3 or not _all_succeeded(plant, total):
                    if _within(lambda: len(away) >= 3 and _all_succeeded(plant, total), random.uniform(5, 20)):  # noqa: S311
                        break
                    begun = time.monotonic()
                    os.kill(postgres.pid, signal.SIGKILL)
                    postgres.stop()  # takes note of its end
                    postgres.start()
                    away.append(time.monotonic() - begun)
                over.set()
                asker.join()
            attempts = assert_all_ended_well(plant, jobs)
        finally:
            over.set()
            database.dispose()
            postgres.stop()
            postgres.remove_data()
    assert answers.keys() <= {200, 503}, answers
    clock.note(jobs=total, kills=len(away), attempts=attempts, rows_lost_or_duplicated=0)
    clock.note(responses_200=answers[200], responses_503=answers[503], responses_500=answers[500])
    clock.times("Postgres back after", away)


def _ask(url: str, key: str, answers: Counter[int], over: threading.Event) -> None:
    """What a dashboard does."""
    with httpx.Client(headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
        while not over.wait(0.05):
            answers[client.get(f"{url}/v1/fine_tuning/jobs").status_code] += 1
            graders = f"{url}/v1/fine_tuning/alpha/graders/validate"
            headers = {"x-stainless-retry-count": "0"}
            answers[client.post(graders, json={"grader": GRADER}, headers=headers).status_code] += 1


def _all_succeeded(plant: Plant, total: int) -> bool:
    return counts(plant).get(JobStatus.succeeded, 0) == total


def _within(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it comes true in time; polls, because what it looks at belongs to other processes."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return False
