"""Pools of threads for work that takes seconds, so that no project can delay the plain requests of another one.

FastAPI's own threads serve requests that only ask the database; these pools serve the rest. In each of them a project
has a few turns at a time. A client that hangs up, and a deadline, end its work.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import Final, TypeVar

from fastapi import Request

from app.api.hang_ups import until_hang_up
from app.core.deadline import Deadline
from app.core.errors import GrouptuneError, Overloaded, RateLimited
from app.core.graders.registry import waits
from app.core.spec.graders import BaseGrader

T = TypeVar("T")

Work = Callable[[Deadline], T]
"""What a thread calls. It must end soon after the deadline has passed, and may raise `TimeoutError` then."""
WAIT_SECONDS: Final = 10.0
"""How long a request waits for a turn of its project."""


class TooManySlowRequests(RateLimited):
    """The project has as many slow requests in progress as it may have."""

    code = "too_many_slow_requests"


class TookTooLong(GrouptuneError):
    """The request was stopped at its time limit. Ask for less at once."""

    status = 503
    code = "took_too_long"
    retry_helps = False


class _Project:
    def __init__(self, at_once: int) -> None:
        self.turns = asyncio.Semaphore(at_once)
        self.requests = 0
        """Waiting and running ones."""


class SlowWork:
    """A pool of threads for one kind of work. Use it from one event loop."""

    def __init__(self, kind: str, *, threads: int, at_once: int, requests: int, seconds: float) -> None:
        """Of a project's `requests`, `at_once` run and the others wait. Each may run for `seconds`.

        `kind` completes "is {kind}" in errors.
        """
        self._kind = kind
        self._size, self._at_once, self._requests, self._seconds = threads, at_once, requests, seconds
        self._threads = ThreadPoolExecutor(threads, f"slow-{kind.split()[0]}")
        self._projects: dict[str, _Project] = {}
        self._running: set[Deadline] = set()

    async def run(self, request: Request, project: str, work: Work[T]) -> T:
        """Return the result of `work`, called in a thread once it is the project's turn.

        If the client hangs up, the deadline passes at once. Raises `TooManySlowRequests`, `TookTooLong`,
        `ClientHungUp`, and as `work`.
        """
        return await until_hang_up(request, self._run(project, work))

    async def run_if_free(self, request: Request, project: str, work: Work[T]) -> T | None:
        """Like `run`, but return None if the project would have to wait, or if the deadline passes."""
        own = self._projects.get(project)
        if len(self._running) >= self._size or (own is not None and own.turns.locked()):
            return None
        try:
            return await self.run(request, project, work)
        except TookTooLong:
            return None

    async def run_later(self, project: str, work: Work[object]) -> None:
        """Like `run`, for work after the response, which is dropped if there is no room or time for it."""
        with suppress(TooManySlowRequests, TookTooLong, Overloaded):
            await self._run(project, work)

    async def _run(self, project: str, work: Work[T]) -> T:
        with self._counted(project) as own:
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await own.turns.acquire()
            except TimeoutError:
                raise self._too_many(own.requests) from None
            try:
                return await self._in_thread(work)
            finally:
                own.turns.release()

    async def _in_thread(self, work: Work[T]) -> T:
        """Call `work` in a thread. A cancelled task ends only when the thread ends, so that it keeps its turn."""
        deadline = Deadline(self._seconds)
        self._running.add(deadline)
        # The context has the id of the request, and its reservation if it can be repeated.
        run = partial(copy_context().run, _call, work, deadline)
        thread = asyncio.get_running_loop().run_in_executor(self._threads, run)
        try:
            await asyncio.wait({thread})
        except asyncio.CancelledError:
            deadline.expire()
            await asyncio.wait({thread})
            if not thread.cancelled():
                thread.exception()  # it has no other reader
            raise
        finally:
            self._running.discard(deadline)
            deadline.expire()  # for threads that `work` started and left behind
        try:
            return thread.result()
        except TimeoutError as error:
            raise TookTooLong(
                f"The request was stopped after {self._seconds:g} s of {self._kind}. Ask for less at once."
            ) from error

    @contextmanager
    def _counted(self, project: str) -> Iterator[_Project]:
        own = self._projects.setdefault(project, _Project(self._at_once))
        if own.requests >= self._requests:
            raise self._too_many(own.requests)
        own.requests += 1
        try:
            yield own
        finally:
            own.requests -= 1
            if not own.requests:
                del self._projects[project]

    def _too_many(self, requests: int) -> TooManySlowRequests:
        return TooManySlowRequests(
            f"Too many requests for {self._kind}: {requests} are in progress, and {self._at_once} run at a time. Send "
            "fewer at once."
        )

    def close(self) -> None:
        """End all work; its requests have ended."""
        for deadline in self._running:
            deadline.expire()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _call(work: Work[T], deadline: Deadline) -> T:
    if deadline.has_passed:
        raise Overloaded  # no thread was free in time
    with deadline.applied():
        return work(deadline)


class SlowPools:
    """The pools of one API process. Work of different kinds does not wait for each other."""

    def __init__(self) -> None:
        self.grading = SlowWork("grading", threads=4, at_once=2, requests=16, seconds=50)
        """Graders that compute in processes of this machine: single runs, lints, regrades."""
        self.remote = SlowWork("calls to other servers", threads=32, at_once=8, requests=32, seconds=50)
        """Work that waits for other servers: judges, reward servers, webhook receivers, issuers of ID tokens."""
        self.rendering = SlowWork("rendering rows", threads=2, at_once=1, requests=16, seconds=30)
        """Chat templates and tokenizers, in threads: previews, estimates and checks of rows."""
        self.conversion = SlowWork("converting files", threads=2, at_once=1, requests=4, seconds=330)
        """Conversions, in processes."""

    def grader(self, grader: BaseGrader) -> SlowWork:
        """Return the pool for work with a grader."""
        return self.remote if waits(grader) else self.grading

    def close(self) -> None:
        """End all work."""
        for pool in (self.grading, self.remote, self.rendering, self.conversion):
            pool.close()
