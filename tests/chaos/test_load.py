"""Uploads that a kill cuts, many clients, long queues, and random histories for as long as there is time."""

import random
import time

import psutil
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import text

from app.core.db import Database
from app.core.jobs import leases
from tests import forked
from tests.api.server import Server, new_key
from tests.api.test_api_killed import check_files, free_port, listens, serve, settings_of, upload_and_kill
from tests.chaos.clock import Clock, quantile
from tests.chaos.crowd import Crowd
from tests.core.jobs.test_state_machine import JobMachine
from tests.setup_jobs import make_job, make_queue
from tests.waiting import eventually

POLLERS = 1000
WATCHERS = 200
REPLICAS = 2
"""Of the API, as docker/compose.yaml has it."""
LONG = 10_000
EXAMPLES = 100


def test_row_12_the_api_is_killed_in_uploads(server: Server, clock: Clock) -> None:
    content = b"".join(b'{"n": %d}\n' % number for number in range(150_000))
    kills = answered = 0
    while clock.go_on():
        share = random.choice([1.0, random.random()])  # noqa: S311 - half of them after the last byte
        answered += upload_and_kill(server, share, content)
        kills += 1
        whole = check_files(server, content)
        assert whole >= answered
    clock.note(kills=kills, uploads_with_200=answered, complete_files=whole, partial_files=0)


def test_row_15_a_crowd_asks(server: Server, clock: Clock) -> None:
    with server.database.transaction() as session:
        job_id = make_job(session, server.project_id).id
    ports = tuple(free_port() for _ in range(REPLICAS))
    processes = [forked.start(serve, settings_of(server), port) for port in ports]
    try:
        eventually(lambda: all(map(listens, ports)), 30.0)
        crowd = Crowd(ports, new_key(server.database, server.project_id), job_id, POLLERS, WATCHERS)
        heard = crowd.go(max(10.0, min(clock.seconds, 60.0)))
        rss = max(psutil.Process(process.pid).memory_info().rss for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert heard.streams == WATCHERS
    assert not [status for status in heard.statuses if status != 200], heard.statuses
    assert rss < 600e6
    clock.note(pollers=POLLERS, streams=WATCHERS, responses=len(heard.seconds), errors=0)
    clock.note(p50_ms=round(1000 * quantile(heard.seconds, 0.5)), p95_ms=round(1000 * quantile(heard.seconds, 0.95)))
    clock.note(api_rss_mb=round(rss / 1e6))


def test_row_16_the_queue_is_long(server: Server, clock: Clock) -> None:
    with server.database.transaction() as session:
        make_queue(session, make_job(session, server.project_id), LONG - 1)
    with server.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE jobs"))
    listed, claimed = [], []
    client = server.client()
    while clock.go_on() or clock.rounds < 50:
        begun = time.monotonic()
        assert len(client.fine_tuning.jobs.list(limit=20).data) == 20
        listed.append(time.monotonic() - begun)
        begun = time.monotonic()
        with server.database.transaction() as session:
            assert leases.claim(session, "w", 60) is not None
        claimed.append(time.monotonic() - begun)
    clock.note(queued=LONG, list_p95_ms=round(1000 * quantile(listed, 0.95), 1))
    clock.note(claim_p95_ms=round(1000 * quantile(claimed, 0.95), 1))


def test_row_18_histories_are_random(database: Database, clock: Clock) -> None:
    examples = 0
    while clock.go_on():
        run_state_machine_as_test(
            lambda: JobMachine(database),  # type: ignore[arg-type] # any factory will do
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=30,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        examples += EXAMPLES
    clock.note(histories=examples, invariants_broken=0)
