"""Reads jobs for all who ask at the same time with one question to Postgres.

Who waits for jobs polls, and a thousand who do are cheaper together: while one read is under way, the next askers
gather, and one read serves them all. Nobody is told of a state from before their question.
"""

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Any, Final, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi.concurrency import run_in_threadpool

from app.api.schemas.jobs import JobObject
from app.core.db import Database
from app.core.jobs import queries
from app.core.jobs.queries import JobDetails

BATCH: Final = 200
"""Jobs a read: some milliseconds."""

T = TypeVar("T")
Named = tuple[str, str]
"""A project's id and a job's."""


PAGES_AT_ONCE: Final = 2
"""More threads would but take turns at the interpreter, and each answer would wait for all of them."""


class JobReader:
    """The reads of one process; used from its event loop alone."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pages = CapacityLimiter(PAGES_AT_ONCE)
        self._waiting: dict[Named, asyncio.Future[JobDetails | None]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def get(self, project_id: str, job_id: str, *, strict: bool, samples: bool = True) -> JobObject:
        """The job as it is now. Raises `NotFound`, also for a job of another project, and as `Database.reading`."""
        named = project_id, job_id
        if named not in self._waiting:
            self._waiting[named] = asyncio.get_running_loop().create_future()
            if self._reading is None:
                self._reading = asyncio.create_task(self._read_on())
        # Shielded, since others may wait for the same: one who goes away leaves it to them.
        details = await asyncio.shield(self._waiting[named])
        if details is None:
            raise queries.no_job(job_id)
        return JobObject.of(details, strict=strict, samples=samples)

    async def page(self, read: Callable[[Any], T]) -> T:
        """What `read` makes of a session, in a thread. Raises as `read` and as `Database.reading`."""

        def work() -> T:
            with self._database.reading() as session:
                return read(session)

        return await to_thread.run_sync(work, limiter=self._pages)

    async def _read_on(self) -> None:
        while self._waiting:
            taken = {named: self._waiting.pop(named) for named in list(islice(self._waiting, BATCH))}
            try:
                found = await run_in_threadpool(self._read, list(taken))
            except Exception as error:  # told to each who asked: none may be left waiting
                for future in taken.values():
                    future.set_exception(error)
                    future.exception()  # who asked may be gone, and nobody else takes it
            else:
                for named, future in taken.items():
                    future.set_result(found.get(named))
        self._reading = None

    def _read(self, wanted: list[Named]) -> dict[Named, JobDetails]:
        with self._database.reading() as session:
            jobs = queries.find_jobs(session, wanted)
            return {(one.job.project_id, one.job.id): one for one in queries.list_details(session, jobs)}
