"""A server that ends in the middle of a request: its repetitions run if it had no effect, and never a second time."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, text, update

from app.core.accounts import audit, idempotency
from app.core.accounts.audit import Action, Actor
from app.core.accounts.effects import RequestInProgress, Reservation, running
from app.core.accounts.idempotency import AnswerLost, RequestRunning, StoredResponse
from app.core.accounts.tables import AuditEntry, IdempotentRequest
from app.core.jobs.tables import Job
from tests import forked
from tests.api.server import Server
from tests.api.test_api_killed import listens, serve, settings_of
from tests.http_server import free_port
from tests.waiting import eventually

FINGERPRINT = b"f" * 32
TABLE = IdempotentRequest.__tablename__


def look_up(server: Server, key: str | None = "k", attempt: int = 0) -> idempotency.LookupResult:
    with server.database.transaction() as session:
        return idempotency.look_up(session, token=server.api_key, key=key, fingerprint=FINGERPRINT, attempt=attempt)


def reserve(server: Server, key: str | None = "k") -> Reservation:
    found = look_up(server, key)
    assert isinstance(found, Reservation)
    return found


def take_effect(server: Server, reservation: Reservation) -> None:
    """Record a change as the running request does."""
    token = running.set(reservation)
    try:
        with server.database.transaction() as session:
            audit.record(session, Actor(server.project_id), Action.job_create, "job", after={"status": "queued"})
    finally:
        running.reset(token)


def end_leases(server: Server) -> None:
    """Let the server of all requests be dead."""

    def restarted_long_ago() -> bool:
        with server.database.reading() as session:
            since = session.scalars(select(func.extract("epoch", func.now() - func.pg_postmaster_start_time()))).one()
        return float(since) > idempotency.LEASE_SECONDS

    eventually(restarted_long_ago)
    with server.database.transaction() as session:
        session.execute(update(IdempotentRequest).values(lease_until=func.now() - timedelta(seconds=1)))


def rows(server: Server, model: Any) -> int:
    with server.database.reading() as session:
        return session.scalars(select(func.count()).select_from(model)).one()


@pytest.mark.parametrize("key", ["k", None])
def test_request_of_a_dead_server_runs_again(server: Server, key: str | None) -> None:
    lost = reserve(server, key)
    assert look_up(server, key, attempt=1) == RequestRunning(lost.row_id)
    end_leases(server)
    again = look_up(server, key, attempt=2)
    assert isinstance(again, Reservation)
    assert again.row_id != lost.row_id


@pytest.mark.parametrize("key", ["k", None])
def test_effect_of_a_dead_server_is_not_repeated(server: Server, key: str | None) -> None:
    lost = reserve(server, key)
    take_effect(server, lost)
    assert look_up(server, key, attempt=1) == RequestRunning(lost.row_id)
    end_leases(server)
    with pytest.raises(AnswerLost):
        look_up(server, key, attempt=2)
    with server.database.transaction() as session:
        idempotency.store_response(session, lost.row_id, StoredResponse(200, b"{}"))  # not dead, but late
    assert look_up(server, key, attempt=3) == StoredResponse(200, b"{}")


def test_late_server_takes_no_effect(server: Server) -> None:
    """A repetition runs already: the change of the first server is rolled back."""
    late = reserve(server)
    end_leases(server)
    reserve(server)
    with pytest.raises(RequestInProgress):
        take_effect(server, late)
    assert rows(server, AuditEntry) == 0


def test_effect_of_a_failed_request_is_not_repeated(server: Server) -> None:
    """The commit may have succeeded although the server lost Postgres during it."""
    failed = reserve(server)
    take_effect(server, failed)
    with server.database.transaction() as session:
        idempotency.release(session, failed.row_id)
    with pytest.raises(AnswerLost):
        look_up(server)


def test_request_of_an_earlier_version_has_ten_minutes(server: Server) -> None:
    lost = reserve(server)
    end_leases(server)
    with server.database.transaction() as session:
        session.execute(update(IdempotentRequest).values(lease_until=None))
    assert look_up(server) == RequestRunning(lost.row_id)
    with server.database.transaction() as session:
        session.execute(update(IdempotentRequest).values(created_at=func.now() - timedelta(minutes=11)))
    assert isinstance(look_up(server), Reservation)


@pytest.fixture
def sent(server: Server) -> Iterator[Any]:
    """Sends the creation of a job with the key `k`, in a thread; an address replaces the server's."""
    headers = {"authorization": f"Bearer {server.api_key}", "idempotency-key": "k"}
    with ThreadPoolExecutor(2) as pool:

        def send(training_file: str, url: str = "") -> Future[httpx.Response]:
            body = {"model": "tiny", "training_file": training_file}
            address = f"{url or server.url}/v1/fine_tuning/jobs"
            return pool.submit(httpx.post, address, json=body, headers=headers, timeout=120)

        yield send


def test_lease_of_a_slow_request_is_renewed(server: Server, sent: Any, training_file: str) -> None:
    def leases() -> list[Any]:
        with server.database.reading() as session:
            return list(session.scalars(select(IdempotentRequest.lease_until)))

    with server.database.transaction() as locking:
        locking.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
        answer = sent(training_file)
        eventually(leases)
        first = leases()
        eventually(lambda: leases()[0] > first[0])
    assert answer.result().status_code == 200


@contextmanager
def doomed(server: Server) -> Iterator[tuple[str, Any]]:
    """Run an API process on the same installation; yield its address and a function that kills it."""
    port = free_port()
    process = forked.start(serve, settings_of(server), port)

    def kill() -> None:
        process.kill()
        process.join()

    try:
        eventually(lambda: listens(port))
        yield f"http://127.0.0.1:{port}", kill
    finally:
        kill()


def test_server_killed_before_the_commit(server: Server, sent: Any, training_file: str) -> None:
    with doomed(server) as (url, kill), server.database.transaction() as locking:
        locking.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
        cut = sent(training_file, url)
        eventually(lambda: rows(server, IdempotentRequest) == 1)
        kill()
    with pytest.raises(httpx.HTTPError):
        cut.result()
    answer = sent(training_file).result()  # waits for the lease
    assert answer.status_code == 200
    assert rows(server, Job) == 1


def test_server_killed_after_the_commit(server: Server, sent: Any, training_file: str) -> None:
    slow = "BEGIN PERFORM pg_sleep(300); RETURN NEW; END"
    with server.database.transaction() as session:
        session.execute(text(f"CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ {slow} $$"))
        session.execute(
            text(f"CREATE TRIGGER slow BEFORE UPDATE OF status ON {TABLE} FOR EACH ROW EXECUTE FUNCTION slow()")
        )
    try:
        with doomed(server) as (url, kill):
            cut = sent(training_file, url)
            eventually(lambda: rows(server, Job) == 1)
            kill()
        with pytest.raises(httpx.HTTPError):
            cut.result()
    finally:
        with server.database.transaction() as session:
            session.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
            session.execute(text(f"DROP TRIGGER slow ON {TABLE}"))
            session.execute(text("DROP FUNCTION slow"))
    end_leases(server)
    answer = sent(training_file).result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "answer_lost")
    assert answer.headers["x-should-retry"] == "false"
    assert rows(server, Job) == 1
