"""Concurrent requests share a read, and each still gets its own project's current state."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from openai import InternalServerError, OpenAI
from sqlalchemy import event, update

from app.api.job_reader import JobReader
from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.errors import DatabaseUnavailable, NotFound, Unstorable
from app.core.jobs import lifecycle
from app.core.jobs.tables import Job
from tests.api.jobs import create
from tests.api.server import Server
from tests.setup_jobs import make_job, make_project


@pytest.fixture
def reads(database: Database) -> Iterator[list[str]]:
    """The statements that read whole jobs, recorded as they are sent."""
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if "jobs.spec" in statement:
            statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    yield statements
    event.remove(database.engine, "before_cursor_execute", note)


def test_concurrent_requests_share_one_read(database: Database, reads: list[str]) -> None:
    """A job of another project is not found, although the same read returns it."""
    with database.transaction() as session:
        own, other = make_project(session), make_project(session, "other")
        jobs = [make_job(session, own).id for _ in range(30)]
        foreign = make_job(session, other).id
    requested = [(own, job) for job in jobs] + [(own, foreign), (other, foreign), (own, "ftjob-none"), (own, jobs[0])]

    async def run() -> list[object]:
        reader = JobReader(database)
        requests = (reader.get(project, job, strict=False) for project, job in requested)
        return await asyncio.gather(*requests, return_exceptions=True)

    reads.clear()
    *own_jobs, hidden, visible, missing, repeated = asyncio.run(run())
    assert [job.id for job in own_jobs] == jobs  # type: ignore[attr-defined]
    assert sorted(job.queue_position for job in own_jobs) == sorted(set(range(1, 32)) - {visible.queue_position})  # type: ignore[attr-defined]
    assert isinstance(hidden, NotFound)
    assert isinstance(missing, NotFound)
    assert (visible.id, repeated.id) == (foreign, jobs[0])  # type: ignore[attr-defined]
    assert len(reads) == 1


def test_request_during_a_read_gets_a_newer_one(database: Database) -> None:
    """It may not get the state from before it was sent."""
    with database.transaction() as session:
        project = make_project(session)
        job = make_job(session, project).id
    reading, proceed = threading.Event(), threading.Event()

    def hold(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if "jobs.spec" in statement and not reading.is_set():
            reading.set()
            proceed.wait()

    async def run() -> tuple[str, str]:
        reader = JobReader(database)
        first = asyncio.create_task(reader.get(project, job, strict=False))
        await asyncio.to_thread(reading.wait)  # the first query has returned
        with database.transaction() as session:
            lifecycle.cancel(session, Actor(project), job)
        second = asyncio.create_task(reader.get(project, job, strict=False))
        await asyncio.sleep(0)  # lets the second request register
        proceed.set()
        return (await first).status, (await second).status

    event.listen(database.engine, "after_cursor_execute", hold)
    try:
        assert asyncio.run(run()) == ("queued", "cancelled")
    finally:
        event.remove(database.engine, "after_cursor_execute", hold)


def test_all_requests_get_the_database_error(database: Database) -> None:
    """The next request reads again."""
    with database.transaction() as session:
        project = make_project(session)
        jobs = [make_job(session, project).id for _ in range(3)]
    refused = threading.Event()

    def refuse(*_: object) -> None:
        if not refused.is_set():
            refused.set()
            raise DatabaseUnavailable

    async def run() -> None:
        reader = JobReader(database)
        answers = await asyncio.gather(
            *(reader.get(project, job, strict=False) for job in jobs), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [DatabaseUnavailable] * 3
        assert (await reader.get(project, jobs[0], strict=False)).id == jobs[0]

    event.listen(database.engine, "before_cursor_execute", refuse)
    try:
        asyncio.run(run())
    finally:
        event.remove(database.engine, "before_cursor_execute", refuse)


def test_one_unreadable_key_fails_alone(database: Database) -> None:
    """A key that Postgres cannot store must not fail the reads of others."""
    with database.transaction() as session:
        project = make_project(session)
        job = make_job(session, project).id

    async def run() -> list[object]:
        reader = JobReader(database)
        requests = (reader.get(project, key, strict=False) for key in (job, "\0"))
        return await asyncio.gather(*requests, return_exceptions=True)

    found, refused = asyncio.run(run())
    assert found.id == job  # type: ignore[attr-defined]
    assert isinstance(refused, Unstorable)


def test_job_of_a_newer_version_is_shown(server: Server, client: OpenAI, training_file: str) -> None:
    """Until an upgrade has replaced this server: without unknown fields, and not at all with unknown values."""
    job = create(client, training_file)
    with server.database.transaction() as session:
        session.execute(update(Job).values(spec=Job.spec.concat({"newer": 1})))
    assert client.fine_tuning.jobs.retrieve(job.id).model == job.model
    assert [found.id for found in client.fine_tuning.jobs.list()] == [job.id]
    with server.database.transaction() as session:
        session.execute(update(Job).values(spec=Job.spec.concat({"method": "newer"})))
    with pytest.raises(InternalServerError) as caught:
        client.fine_tuning.jobs.retrieve(job.id)
    assert (caught.value.status_code, caught.value.code) == (503, "newer_version")
