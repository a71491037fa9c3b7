"""Those who ask at the same time share a read, and each still gets what is true for it."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import event

from app.api.job_reader import JobReader
from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.errors import DatabaseUnavailable, NotFound
from app.core.jobs import lifecycle
from tests.setup_jobs import make_job, make_project


@pytest.fixture
def reads(database: Database) -> Iterator[list[str]]:
    """The statements that read whole jobs, as they are sent."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if "jobs.spec" in statement:
            seen.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    yield seen
    event.remove(database.engine, "before_cursor_execute", note)


def test_all_who_ask_meanwhile_share_one_read_and_none_sees_another_projects_job(
    database: Database, reads: list[str]
) -> None:
    with database.transaction() as session:
        mine, other = make_project(session), make_project(session, "other")
        jobs = [make_job(session, mine).id for _ in range(30)]
        foreign = make_job(session, other).id
    asked = [(mine, job) for job in jobs] + [(mine, foreign), (other, foreign), (mine, "ftjob-none"), (mine, jobs[0])]

    async def ask() -> list[object]:
        reader = JobReader(database)
        questions = (reader.get(project, job, strict=False) for project, job in asked)
        return await asyncio.gather(*questions, return_exceptions=True)

    reads.clear()
    *found, unseen, seen, missing, again = asyncio.run(ask())
    assert [one.id for one in found] == jobs  # type: ignore[attr-defined]
    assert sorted(one.queue_position for one in found) == sorted(set(range(1, 32)) - {seen.queue_position})  # type: ignore[attr-defined]
    assert isinstance(unseen, NotFound)
    assert isinstance(missing, NotFound)
    assert (seen.id, again.id) == (foreign, jobs[0])  # type: ignore[attr-defined]
    assert len(reads) == 1


def test_who_asks_during_a_read_is_told_of_what_happened_before_it_asked(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        job = make_job(session, project).id
    reading, go_on = threading.Event(), threading.Event()

    def hold(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if "jobs.spec" in statement and not reading.is_set():
            reading.set()
            go_on.wait()

    async def ask() -> tuple[str, str]:
        reader = JobReader(database)
        first = asyncio.create_task(reader.get(project, job, strict=False))
        await asyncio.to_thread(reading.wait)  # the first read has its answer
        with database.transaction() as session:
            lifecycle.cancel(session, Actor(project), job)
        second = asyncio.create_task(reader.get(project, job, strict=False))
        await asyncio.sleep(0)  # until it has asked
        go_on.set()
        return (await first).status, (await second).status

    event.listen(database.engine, "after_cursor_execute", hold)
    try:
        assert asyncio.run(ask()) == ("queued", "cancelled")
    finally:
        event.remove(database.engine, "after_cursor_execute", hold)


def test_everybody_hears_that_the_database_is_away_and_the_next_question_is_asked_anew(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        jobs = [make_job(session, project).id for _ in range(3)]
    refused = threading.Event()

    def refuse(*_: object) -> None:
        if not refused.is_set():
            refused.set()
            raise DatabaseUnavailable

    async def ask() -> None:
        reader = JobReader(database)
        answers = await asyncio.gather(
            *(reader.get(project, job, strict=False) for job in jobs), return_exceptions=True
        )
        assert [type(one) for one in answers] == [DatabaseUnavailable] * 3
        assert (await reader.get(project, jobs[0], strict=False)).id == jobs[0]

    event.listen(database.engine, "before_cursor_execute", refuse)
    try:
        asyncio.run(ask())
    finally:
        event.remove(database.engine, "before_cursor_execute", refuse)
