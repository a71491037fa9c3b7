"""Chaos tests of the engines: the broker is flushed and stopped; Postgres is killed with -9 under load."""

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
from tests.api.test_api_killed import serve
from tests.chaos.clock import Clock, quantile
from tests.http_server import free_port
from tests.local.conftest import remove_postgres_data
from tests.setup_jobs import make_file, make_project
from tests.waiting import eventually
from tests.worker.conftest import Plant

STEPS = 3
MESSAGES = 10
POSTS = 100
JOB_SECONDS = 3.0
"""Time per job, at least."""


@contextmanager
def api(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run an API process on the plant's engines; yield its URL."""
    for name, value in plant.environment.items():
        monkeypatch.setenv(name, value)
    values = Settings().model_dump(mode="json", exclude_none=True, exclude={"database_url", "redis_url"})
    values |= {"DATABASE_URL": plant.environment["DATABASE_URL"], "REDIS_URL": plant.environment["REDIS_URL"]}
    port = free_port()
    process = forked.start(serve, values, port)
    try:
        eventually(lambda: _responds(port), 30.0)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.join()


def _responds(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.HTTPError:
        return False


def counts(plant: Plant) -> dict[str, int]:
    with plant.database.transaction() as session:
        rows = session.execute(select(Job.status, func.count()).group_by(Job.status))
        return {row[0]: row[1] for row in rows}


def assert_all_succeeded(plant: Plant, jobs: list[str]) -> int:
    """Assert that every job succeeded, with every row once; return the number of attempts."""
    with plant.database.transaction() as session:
        assert invariants.breaches(session, plant.store.exists) == []
        for job_id in jobs:
            assert session.get_one(Job, job_id).status == JobStatus.succeeded
            assert [row.step for row in queries.list_metrics(session, job_id)] == list(range(1, STEPS + 1))
        return session.scalar(select(func.count()).select_from(JobAttempt)) or 0


def test_row_5_broker_flushed(plant: Plant, clock: Clock) -> None:
    total = max(30, min(200, int(clock.seconds / 0.6)))
    jobs = [plant.tell(f"train:{STEPS}") for _ in range(total)]
    flushes = 0
    with plant.default_worker(), plant.quick_worker("one"), plant.quick_worker("two"), _client(plant) as client:
        while counts(plant).get(JobStatus.succeeded, 0) < total:
            for _ in range(MESSAGES):
                broker.notify_training(plant.broker_url)
            time.sleep(random.uniform(0, 2))  # noqa: S311 - at any moment in the life of a message
            client.flushall()
            flushes += 1
    attempts = assert_all_succeeded(plant, jobs)
    assert attempts == total
    clock.note(jobs=total, flushes=flushes, attempts=attempts, jobs_lost_or_run_twice=0)


def _client(plant: Plant) -> redis.Redis:
    return redis.Redis(unix_socket_path=plant.broker_url.removeprefix("redis+socket://"))


def test_row_6_broker_down(plant: Plant, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
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
                start = time.monotonic()
                times: list[float] = []
                with httpx.Client(headers={"authorization": f"Bearer {key}"}) as client:
                    while len(times) < POSTS or time.monotonic() - start < min(clock.seconds, 600):
                        sent = time.monotonic()
                        response = client.post(f"{url}/v1/fine_tuning/jobs", json=body)
                        times.append(time.monotonic() - sent)
                        assert response.status_code == 200, response.text
                        time.sleep(
                            0.02 if len(times) < POSTS else 1.0
                        )  # slower after the first posts, until the outage ends
                outage = time.monotonic() - start
                valkey.start()
                restarted = time.monotonic()
                eventually(lambda: _started(plant), 60.0)
                waited = time.monotonic() - restarted
        finally:
            valkey.stop()
    assert waited <= 20
    clock.note(outage_s=round(outage), posts=len(times), errors=0, post_p95_ms=round(1000 * quantile(times, 0.95)))
    clock.note(first_job_started_after_s=round(waited, 1))


def _started(plant: Plant) -> bool:
    with plant.database.transaction() as session:
        return bool(session.scalar(select(func.count()).select_from(JobAttempt)))


def test_row_7_postgres_killed(plant: Plant, tiny_models: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
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
        statuses, stop = Counter[int](), threading.Event()
        outages: list[float] = []
        try:
            with (
                plant.default_worker(),
                plant.quick_worker("one"),
                plant.quick_worker("two"),
                api(plant, monkeypatch) as url,
            ):
                client = threading.Thread(target=_send_requests, args=(url, key, statuses, stop))
                client.start()
                while len(outages) < 3 or not _all_succeeded(plant, total):
                    if _within(lambda: len(outages) >= 3 and _all_succeeded(plant, total), random.uniform(5, 20)):  # noqa: S311
                        break
                    start = time.monotonic()
                    os.kill(postgres.pid, signal.SIGKILL)
                    postgres.stop()  # collects the exit status
                    postgres.start()
                    outages.append(time.monotonic() - start)
                stop.set()
                client.join()
            attempts = assert_all_succeeded(plant, jobs)
        finally:
            stop.set()
            database.dispose()
            postgres.stop()
            remove_postgres_data(Path(scratch) / "pg")
    assert statuses.keys() <= {200, 503}, statuses
    clock.note(jobs=total, kills=len(outages), attempts=attempts, rows_lost_or_duplicated=0)
    clock.note(responses_200=statuses[200], responses_503=statuses[503], responses_500=statuses[500])
    clock.times("Postgres back after", outages)


def _send_requests(url: str, key: str, statuses: Counter[int], stop: threading.Event) -> None:
    """Send reads and writes, like a dashboard, and count the statuses."""
    with httpx.Client(headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
        while not stop.wait(0.05):
            statuses[client.get(f"{url}/v1/fine_tuning/jobs").status_code] += 1
            graders = f"{url}/v1/fine_tuning/alpha/graders/validate"
            headers = {"x-stainless-retry-count": "0"}
            statuses[client.post(graders, json={"grader": GRADER}, headers=headers).status_code] += 1


def _all_succeeded(plant: Plant, total: int) -> bool:
    return counts(plant).get(JobStatus.succeeded, 0) == total


def _within(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition becomes true in time. Polls, because it depends on other processes."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return False
