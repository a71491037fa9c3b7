"""Repeated requests take effect once."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from openai import BadRequestError, ConflictError, InternalServerError, OpenAI, UnprocessableEntityError
from sqlalchemy import Engine, event, select, text, update
from sqlalchemy.orm import Session
from starlette.types import Receive, Scope, Send

from app.api.middleware.idempotency import Idempotency
from app.core.accounts import idempotency
from app.core.accounts.tables import IdempotentRequest
from app.core.errors import DatabaseUnavailable
from tests.api.jobs import create
from tests.api.server import Server, new_key
from tests.waiting import WAIT_SECONDS, eventually


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def job_ids(client: OpenAI) -> set[str]:
    return {job.id for job in client.fine_tuning.jobs.list()}


def rows(server: Server) -> list[IdempotentRequest]:
    with server.database.transaction() as session:
        return list(session.scalars(select(IdempotentRequest).order_by(IdempotentRequest.id)))


@pytest.mark.parametrize("header", ["Idempotency-Key", "X-Idempotency-Key"])
def test_the_same_key_gets_the_same_answer(client: OpenAI, training_file: str, header: str) -> None:
    first = create(client, training_file, extra_headers={header: "build-1"})
    client.fine_tuning.jobs.cancel(first.id)
    again = create(client, training_file, extra_headers={header: "build-1"})
    assert again.to_dict() == first.to_dict()  # as it was at the first response
    assert create(client, training_file, extra_headers={header: "build-2"}).id != first.id
    assert len(job_ids(client)) == 2


def test_a_replayed_answer_says_so(server: Server, training_file: str) -> None:
    body = {"model": "tiny", "training_file": training_file}
    headers = keyed("k") | {"authorization": f"Bearer {server.api_key}"}
    first, again = (httpx.post(f"{server.url}/v1/fine_tuning/jobs", json=body, headers=headers) for _ in range(2))
    assert first.content == again.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-request-id"] != first.headers["x-request-id"]


def test_a_key_goes_with_one_request(client: OpenAI, training_file: str) -> None:
    job = create(client, training_file, seed=1, extra_headers=keyed("k"))
    with pytest.raises(UnprocessableEntityError, match="Send a new key") as caught:
        create(client, training_file, seed=2, extra_headers=keyed("k"))
    assert (caught.value.code, caught.value.param) == ("idempotency_key_reused", "Idempotency-Key")
    with pytest.raises(UnprocessableEntityError):
        client.fine_tuning.jobs.cancel(job.id, extra_headers=keyed("k"))
    assert job_ids(client) == {job.id}


def test_a_hundred_at_once_make_one_job(server: Server, training_file: str) -> None:
    body = {"model": "tiny", "training_file": training_file}
    headers = keyed("k") | {"authorization": f"Bearer {server.api_key}"}
    with httpx.Client(base_url=server.url, limits=httpx.Limits(max_connections=100), timeout=240) as http:

        def send(_: int) -> httpx.Response:
            return http.post("/v1/fine_tuning/jobs", json=body, headers=headers)

        with ThreadPoolExecutor(100) as pool:
            answers = list(pool.map(send, range(100)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len(job_ids(server.client())) == 1


def test_repetitions_share_the_queries(server: Server) -> None:
    inserted: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        inserted.extend(["row"] * statement.startswith("INSERT INTO idempotency_keys"))

    async def check() -> None:
        release = asyncio.Event()

        async def slow(_scope: Scope, _receive: Receive, send: Send) -> None:
            await release.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})

        app = Idempotency(slow, server.database)
        headers = keyed("k") | {"authorization": f"Bearer {server.api_key}"}
        async with (
            asyncio.timeout(WAIT_SECONDS),
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://x", headers=headers, timeout=120
            ) as http,
        ):
            requests = [asyncio.create_task(http.post("/v1/a", json={})) for _ in range(20)]
            while len(inserted) < 20 or not app._awaited:
                await asyncio.sleep(0.01)  # polls: the statements run in other threads
            assert len(app._awaited) == 1
            release.set()
            assert {answer.status_code for answer in await asyncio.gather(*requests)} == {200}
            assert app._awaited == {}

    event.listen(server.database.engine, "before_cursor_execute", note)
    try:
        asyncio.run(check())
    finally:
        event.remove(server.database.engine, "before_cursor_execute", note)


def test_failed_request_runs_again(server: Server, client: OpenAI, training_file: str) -> None:
    refused = client.with_options(default_headers=keyed("k"))
    with pytest.raises(Exception, match="no base model"):
        create(refused, training_file, model="nope")
    assert rows(server) == []
    assert create(refused, training_file).id in job_ids(client)


def test_idempotency_keys_are_per_api_key(server: Server, training_file: str) -> None:
    other = server.client(api_key=new_key(server.database, server.project_id))
    made = {create(client, training_file, extra_headers=keyed("k")).id for client in (server.client(), other)}
    assert len(made) == 2


def test_unauthenticated_request_leaves_nothing(server: Server) -> None:
    for authorization in ("Bearer unknown", "Basic eA==", ""):
        headers = keyed("k") | {"authorization": authorization}
        answer = httpx.post(f"{server.url}/v1/fine_tuning/jobs", json={}, headers=headers)
        assert answer.status_code == 401
    assert rows(server) == []


@pytest.mark.parametrize("key", ["x" * 256])
def test_a_key_has_a_length(server: Server, key: str) -> None:
    headers = keyed(key) | {"authorization": f"Bearer {server.api_key}"}
    answer = httpx.post(f"{server.url}/v1/fine_tuning/jobs", json={}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")


def test_a_file_is_stored_once(client: OpenAI) -> None:
    def upload(content: bytes) -> Any:
        return client.files.create(file=content, purpose="fine-tune", extra_headers=keyed("k"))

    first = upload(b'{"prompt": "a", "completion": "b"}\n')
    assert upload(b'{"prompt": "a", "completion": "b"}\n').id == first.id
    with pytest.raises(UnprocessableEntityError):
        upload(b'{"prompt": "a", "completion": "longer"}\n')
    assert [file.id for file in client.files.list()] == [first.id]


def test_response_with_a_secret_is_not_stored(server: Server) -> None:
    admin = server.client(api_key=new_key(server.database, server.project_id, "admin"))

    def mint() -> Any:
        body = {"name": "ci"}
        return admin.post("/api_keys", body=body, cast_to=object, options={"headers": keyed("k")})

    secret = mint()["key"]
    with pytest.raises(ConflictError, match="shown only once") as caught:
        mint()
    assert caught.value.code == "answer_not_kept"
    (row,) = rows(server)
    assert row.body is None
    names = [key["name"] for key in admin.get("/api_keys", cast_to=object)["data"]]  # type: ignore[index]
    assert names.count("ci") == 1
    assert secret


def test_retries_make_one_job(server: Server, training_file: str) -> None:
    client = server.client(max_retries=10).with_options(timeout=1.5)  # a busy machine may time out again
    with server.database.transaction() as locking:
        locking.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))  # makes the server slow
        with ThreadPoolExecutor(1) as pool:
            made = pool.submit(create, client, training_file)
            eventually(lambda: [row.attempt for row in rows(server)] == [2])
            locking.commit()
            job = made.result(30)
    assert job_ids(client) == {job.id}


def test_intended_duplicates_make_two_jobs(client: OpenAI, training_file: str) -> None:
    made = [create(client, training_file, seed=3).id for _ in range(2)]
    retried = {"x-stainless-retry-count": "1"}
    assert [create(client, training_file, seed=3, extra_headers=retried).id for _ in range(2)] == made
    assert job_ids(client) == set(made)


def test_retry_of_an_undelivered_request_runs(client: OpenAI, training_file: str) -> None:
    job = create(client, training_file, extra_headers={"x-stainless-retry-count": "2"})
    assert job_ids(client) == {job.id}


def test_old_responses_expire(server: Server, training_file: str) -> None:
    client = server.client()
    first = create(client, training_file, extra_headers=keyed("k"))
    with server.database.transaction() as session:
        aged = IdempotentRequest.created_at - idempotency.RETENTION
        session.execute(update(IdempotentRequest).values(created_at=aged))
    assert create(client, training_file, extra_headers=keyed("k")).id != first.id
    with server.database.transaction() as session:
        session.execute(update(IdempotentRequest).values(created_at=aged))
        assert idempotency.delete_expired(session) == 1


def test_response_is_sent_if_it_cannot_be_stored(server: Server, training_file: str) -> None:
    """Postgres fails after the job is created but before its response is stored; the client still gets the response.

    Once Postgres is back, the outcomes are stored, so that repetitions get them or run.
    """
    table = IdempotentRequest.__tablename__
    with server.database.transaction() as session:
        away = "BEGIN RAISE EXCEPTION 'shutting down' USING ERRCODE = '57P01'; END"
        session.execute(text(f"CREATE FUNCTION away() RETURNS trigger LANGUAGE plpgsql AS $$ {away} $$"))
        trigger = f"CREATE TRIGGER away BEFORE UPDATE OF status OR DELETE ON {table}"
        session.execute(text(f"{trigger} FOR EACH ROW EXECUTE FUNCTION away()"))
    try:
        client = server.client()
        job = create(client, training_file, extra_headers=keyed("k"))
        assert job_ids(client) == {job.id}
        with pytest.raises(BadRequestError):
            create(client, "file-none", extra_headers=keyed("other"))
    finally:
        with server.database.transaction() as session:
            session.execute(text(f"DROP TRIGGER away ON {table}"))
            session.execute(text("DROP FUNCTION away"))
    assert create(client, training_file, extra_headers=keyed("k")).id == job.id
    with pytest.raises(BadRequestError):
        create(client, "file-none", extra_headers=keyed("other"))
    assert job_ids(client) == {job.id}


def test_reservation_of_unknown_commit_is_withdrawn(server: Server, training_file: str) -> None:
    """Postgres is lost after it has committed the reservation and before it says so; the request does not run."""
    threads: list[int] = []

    def note_insert(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith(f"INSERT INTO {IdempotentRequest.__tablename__}") and not threads:
            threads.append(threading.get_ident())

    def lose(_session: Session) -> None:
        if threads == [threading.get_ident()]:
            threads.append(0)
            raise DatabaseUnavailable

    client = server.client()
    event.listen(Engine, "after_cursor_execute", note_insert)
    event.listen(Session, "after_commit", lose)
    try:
        with pytest.raises(InternalServerError, match="database is unavailable"):
            create(client, training_file, extra_headers=keyed("k"))
    finally:
        event.remove(Engine, "after_cursor_execute", note_insert)
        event.remove(Session, "after_commit", lose)
    assert create(client, training_file, extra_headers=keyed("k")).id in job_ids(client)
