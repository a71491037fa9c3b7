"""The sweeper: expired leases, work without a message, and a queue without duplicate messages."""

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError
from kombu.utils import functional
from sqlalchemy import func, update

from app.core.broker import TRAIN_TASK
from app.core.files import validation_claims
from app.core.files.tables import File, FileStatus
from app.core.files.validation_claims import ValidationResult
from app.core.jobs import leases, queries
from app.core.jobs.state_machine import JobStatus
from app.core.jobs.tables import Job
from app.core.settings import Settings
from tests.setup_jobs import make_file
from tests.worker.conftest import Bench
from worker import celery_app, file_validation, sweeper


@pytest.fixture
def broker(broker_url: str) -> redis.Redis:
    client = redis.Redis(unix_socket_path=broker_url.removeprefix("redis+socket://"))
    client.flushall()
    return client


@pytest.fixture
def app(broker_url: str, monkeypatch: pytest.MonkeyPatch) -> Celery:
    monkeypatch.setenv("REDIS_URL", broker_url)
    return celery_app.create(Settings())


def test_broker_reconnect_wait_is_limited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setattr(functional, "sleep", lambda _seconds: None)
    waits: list[float] = []
    with celery_app.create(Settings()).connection_for_read() as connection, pytest.raises(OperationalError):
        connection.ensure_connection(lambda _error, wait: waits.append(wait), 20)
    assert waits[0] == 2
    assert max(waits) == celery_app.BROKER_RETRY_SECONDS


def test_repeated_notify_queues_one_message(app: Celery, broker: redis.Redis) -> None:
    for _ in range(3):
        sweeper.notify(app, TRAIN_TASK)
    assert broker.llen("train") == 1


def test_sweep_notifies_for_pending_work(bench: Bench, app: Celery, broker: redis.Redis) -> None:
    with bench.database.transaction() as session:
        make_file(session, bench.project, status=FileStatus.uploaded)
    sweeper.sweep(bench.database, app, bench.settings)
    assert (broker.llen("train"), broker.llen("default")) == (1, 1)


def test_sweep_without_work_sends_nothing(bench: Bench, app: Celery, broker: redis.Redis) -> None:
    with bench.database.transaction() as session:
        session.execute(update(Job).values(eligible_at=func.now() + func.make_interval(0, 0, 0, 1)))
    sweeper.sweep(bench.database, app, bench.settings)
    assert (broker.llen("train"), broker.llen("default")) == (0, 0)


def test_sweep_requeues_jobs_of_dead_workers(bench: Bench, app: Celery, broker: redis.Redis) -> None:
    with bench.database.transaction() as session:
        assert leases.claim(session, "dead", 60)
        session.execute(update(Job).values(lease_until=func.now() - func.make_interval(0, 0, 0, 1)))
    sweeper.sweep(bench.database, app, bench.settings)
    assert bench.status() is JobStatus.queued


def test_sweep_survives_a_broker_outage(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    sweeper.sweep(bench.database, celery_app.create(Settings()), bench.settings)


def test_files_are_validated_once(bench: Bench) -> None:
    with bench.database.transaction() as session:
        missing = make_file(session, bench.project, status=FileStatus.uploaded)
        claimed = make_file(session, bench.project, status=FileStatus.uploaded)
        claimed.claimed_until = func.now() + func.make_interval(0, 0, 0, 1)
        other = make_file(session, bench.project, status=FileStatus.uploaded, purpose="batch")
    while file_validation.validate_one(bench.database, bench.store):
        pass
    with bench.database.transaction() as session:
        assert not validation_claims.any_waiting(session)
        files = {file_id: session.get_one(File, file_id) for file_id in (missing.id, claimed.id, other.id)}
    assert files[missing.id].status == FileStatus.error
    assert "upload it again" in (files[missing.id].status_details or "")
    assert files[claimed.id].status == FileStatus.uploaded
    assert files[other.id].status == FileStatus.processed
    with bench.database.transaction() as session:
        assert queries.any_queued(session)


def test_validation_claim_expires(bench: Bench) -> None:
    with bench.database.transaction() as session:
        make_file(session, bench.project, status=FileStatus.uploaded)
        first = validation_claims.claim_next(session, 60)
        assert first is not None
    with bench.database.transaction() as session:
        assert validation_claims.claim_next(session, 60) is None
        renewed = validation_claims.renew(session, first, 0)
        assert renewed is not None
        assert renewed.until != first.until
    with bench.database.transaction() as session:
        assert validation_claims.renew(session, first, 60) is None
        second = validation_claims.claim_next(session, 60)
        assert second is not None
        assert second.file_id == first.file_id
        assert not validation_claims.settle(session, renewed, ValidationResult(FileStatus.processed))
        assert validation_claims.settle(session, second, ValidationResult(FileStatus.processed))
