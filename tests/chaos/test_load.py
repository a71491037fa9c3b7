"""Chaos tests of the API and the state machine: uploads cut by a kill, many clients, long queues, random histories."""

import os
import random
import time

import psutil
import pytest
from sqlalchemy import text

from app.core.db import Database
from app.core.jobs import leases
from tests import forked
from tests.api.server import Server, new_key
from tests.api.test_api_killed import check_files, listens, serve, settings_of, upload_and_kill
from tests.chaos.clock import Clock, quantile
from tests.chaos.crowd import Crowd
from tests.core.jobs.test_state_machine import run_histories
from tests.http_server import free_port
from tests.setup_jobs import make_job, make_queue
from tests.waiting import eventually

POLLERS = 1000
WATCHERS = 200
REPLICAS = 2
"""Number of API processes, as in docker/compose.yaml."""
QUEUE_LENGTH = 10_000
HISTORIES = 10_000


def test_row_12_api_killed_during_upload(server: Server, clock: Clock) -> None:
    content = b"".join(b'{"n": %d}\n' % number for number in range(150_000))
    kills = accepted = 0
    while clock.has_time():
        share = random.choice([1.0, random.random()])  # noqa: S311 - kill half of the uploads after the last byte
        accepted += upload_and_kill(server, share, content)
        kills += 1
        complete = check_files(server, content)
        assert complete >= accepted
    clock.note(kills=kills, uploads_with_200=accepted, complete_files=complete, partial_files=0)


def test_row_15_many_clients(server: Server, clock: Clock) -> None:
    with server.database.transaction() as session:
        job_id = make_job(session, server.project_id).id
    ports = tuple(free_port() for _ in range(REPLICAS))
    processes = [forked.start(serve, settings_of(server), port) for port in ports]
    try:
        eventually(lambda: all(map(listens, ports)), 30.0)
        crowd = Crowd(ports, new_key(server.database, server.project_id), job_id, POLLERS, WATCHERS)
        responses = crowd.run(max(10.0, min(clock.seconds, 60.0)))
        rss = max(psutil.Process(process.pid).memory_info().rss for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert responses.streams == WATCHERS
    assert not [status for status in responses.statuses if status != 200], responses.statuses
    assert rss < 600e6
    clock.note(pollers=POLLERS, streams=WATCHERS, responses=len(responses.seconds), errors=0)
    clock.note(
        p50_ms=round(1000 * quantile(responses.seconds, 0.5)), p95_ms=round(1000 * quantile(responses.seconds, 0.95))
    )
    clock.note(api_rss_mb=round(rss / 1e6))


def test_row_16_long_queue(server: Server, clock: Clock) -> None:
    with server.database.transaction() as session:
        make_queue(session, make_job(session, server.project_id), QUEUE_LENGTH - 1)
    with server.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE jobs"))
    listed, claimed = [], []
    client = server.client()
    while clock.has_time() or clock.rounds < 50:
        start = time.monotonic()
        assert len(client.fine_tuning.jobs.list(limit=20).data) == 20
        listed.append(time.monotonic() - start)
        start = time.monotonic()
        with server.database.transaction() as session:
            assert leases.claim(session, "w", 60) is not None
        claimed.append(time.monotonic() - start)
    clock.note(queued=QUEUE_LENGTH, list_p95_ms=round(1000 * quantile(listed, 0.95), 1))
    clock.note(claim_p95_ms=round(1000 * quantile(claimed, 0.95), 1))


def run_some_histories(url: str, count: int) -> None:
    random.seed()  # all forks begin with the same numbers
    database = Database(url)
    try:
        run_histories(database, count, derandomize=False)
    finally:
        database.dispose()


@pytest.mark.timeout(3600)
def test_row_18_random_histories(database: Database, migrated_url: str, clock: Clock) -> None:
    """Runs all histories, whatever the time limit, on all cores."""
    cores = os.cpu_count() or 1
    counts = [HISTORIES // cores + (number < HISTORIES % cores) for number in range(cores)]
    processes = [forked.start(run_some_histories, migrated_url, count) for count in counts]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * cores  # a broken invariant is in their output
    clock.note(histories=HISTORIES, invariants_broken=0)
