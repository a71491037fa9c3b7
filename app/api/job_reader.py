"""Reads jobs for many concurrent requests with one query.

Clients that wait for a job poll it, and a thousand of them are cheaper together: while one read runs, the requests that
arrive are collected, and the next read serves them all. A request never gets a state from before its arrival.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, Final, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi.concurrency import run_in_threadpool

from app.api.schemas.jobs import JobObject
from app.core.db import Database
from app.core.errors import DatabaseUnavailable
from app.core.jobs import queries
from app.core.jobs.queries import JobDetails
from app.core.jobs.state_machine import TERMINAL

BATCH: Final = 200
"""Jobs per read; one read takes a few milliseconds."""
PAGES_AT_ONCE: Final = 2
"""More threads would only take turns at the interpreter lock, and every response would wait for all of them."""

T = TypeVar("T")
JobKey = tuple[str, str]
"""A project's id and a job's id."""


class JobReader:
    """The job reads of one process. Use it from its event loop only."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pages = CapacityLimiter(PAGES_AT_ONCE)
        self._waiting: dict[JobKey, asyncio.Future[JobDetails | None]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def get(self, project_id: str, job_id: str, *, strict: bool, samples: bool | None = None) -> JobObject:
        """Return the current job. Raises `NotFound`, also for a job of another project, and as `Database.reading`.

        `samples` includes the sample answers of its evaluations; None includes them once the job is finished. They are
        read only then, because they are large and a job is polled while it runs.
        """
        key = project_id, job_id
        if key not in self._waiting:
            self._waiting[key] = asyncio.get_running_loop().create_future()
            if self._reading is None:
                self._reading = asyncio.create_task(self._read_waiting())
        # Shielded, because other requests may await the same future: a cancelled request must not cancel it.
        details = await asyncio.shield(self._waiting[key])
        if details is None:
            raise queries.no_job(job_id)
        if samples is None:
            samples = details.job.status in TERMINAL
        shown = None
        if samples and details.job.evaluation is not None:
            shown = await self.page(partial(queries.evaluation_samples, job_id=job_id))
        return JobObject.of(details, strict=strict, samples=shown)

    async def page(self, read: Callable[[Any], T]) -> T:
        """Call `read` with a session, in a thread, and return its result. Raises as `read` and `Database.reading`."""

        def work() -> T:
            with self._database.reading() as session:
                return read(session)

        return await to_thread.run_sync(work, limiter=self._pages)

    async def _read_waiting(self) -> None:
        while self._waiting:
            # Taken out before the read starts: a request that arrives during the read gets a new future, and with it
            # the next read, because this one may not see a change that was committed in between.
            batch = {key: self._waiting.pop(key) for key in list(islice(self._waiting, BATCH))}
            for key, result in (await run_in_threadpool(self._read_all, list(batch))).items():
                if isinstance(result, Exception):
                    batch[key].set_exception(result)
                    batch[key].exception()  # marks it as retrieved, in case its request is gone
                else:
                    batch[key].set_result(result)
        self._reading = None

    def _read_all(self, keys: list[JobKey]) -> dict[JobKey, JobDetails | Exception | None]:
        """Return the job of each key, None if there is none, or the error of its read. Raises nothing.

        If the read of all keys fails, each is read alone: one caller's key must not fail the reads of others.
        """
        try:
            details = self._read(keys)
        except Exception as error:  # passed on to the requests; none may wait forever
            if len(keys) == 1 or isinstance(error, DatabaseUnavailable):
                return dict.fromkeys(keys, error)
            return {key: result for one in keys for key, result in self._read_all([one]).items()}
        return {key: details.get(key) for key in keys}

    def _read(self, keys: list[JobKey]) -> dict[JobKey, JobDetails]:
        with self._database.reading() as session:
            jobs = queries.find_jobs(session, keys)
            details = queries.list_details(session, jobs)
            return {(item.job.project_id, item.job.id): item for item in details}
