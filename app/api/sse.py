"""Server-sent events. One poller a process asks Postgres for all who look on; each stream reads from its own place.

A stream holds no queue: it keeps the number of the last event it has sent and, once woken, sends what is behind it. A
slow reader therefore costs no memory, and a reader that comes back misses nothing.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

import structlog
from fastapi.concurrency import run_in_threadpool

from app.api.job_reader import JobReader
from app.api.schemas.files import FileObject
from app.api.schemas.jobs import EventObject
from app.core.db import Database
from app.core.errors import DatabaseUnavailable, NotFound
from app.core.files import uploads
from app.core.files.tables import FileStatus
from app.core.jobs import changes
from app.core.jobs.changes import Pulse
from app.core.retry import RetryPolicy, retry_async

log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 0.05
AWAY_SECONDS: Final = 1.0
"""Between questions while the database is away."""
_RETRY_POLICY: Final = RetryPolicy(attempts=None, longest_wait_seconds=AWAY_SECONDS)
HEARTBEAT_SECONDS: Final = 15.0
"""A comment after so much silence keeps proxies from closing the connection."""
BATCH: Final = 200
KEPT_BATCHES: Final = 64

T = TypeVar("T")


class Hub:
    """Wakes the streams of one process when a job that they look at has changed."""

    def __init__(self, database: Database, reader: JobReader) -> None:
        self._database, self._reader = database, reader
        self._jobs: Counter[str] = Counter()
        self._projects: Counter[str] = Counter()
        self._files: Counter[str] = Counter()
        self._pulses: dict[str, Pulse] = {}
        self._by_project: dict[str, dict[str, Pulse]] = {}
        self._file_states: dict[str, str] = {}
        self._changed: dict[str, asyncio.Event] = {}
        """By the id of what is watched: a change wakes those alone who look at it."""
        self._poller: asyncio.Task[None] | None = None
        self._shared: dict[tuple[str, int, int], asyncio.Task[list[tuple[int, str]]]] = {}
        self.is_closing = False

    def close(self) -> None:
        """Ends all streams; called from the event loop when the server stops."""
        self.is_closing = True
        self._wake(list(self._changed))

    async def job(self, project_id: str, job_id: str, seq: int, *, strict: bool) -> AsyncIterator[str]:
        """The stream of one job from behind the event `seq`, until it has ended or the server stops."""
        shown: Pulse | None = None
        with self._watching(self._jobs, job_id):
            while not self.is_closing:
                pulse = self._pulses.get(job_id)
                if pulse is not None and pulse != shown:
                    if shown is None or _state(pulse) != _state(shown):
                        yield await self._state(project_id, job_id, strict=strict)
                    while seq < pulse.last_seq:
                        events = await self._events(job_id, seq, pulse.last_seq)
                        if not events:
                            break
                        for _, text in events:
                            yield text
                        seq = events[-1][0]
                    shown = pulse
                    if pulse.is_final:
                        yield _message("end", {"status": pulse.status})
                        return
                    continue
                if not await self._change(job_id):
                    yield ": still here\n\n"

    async def project(self, project_id: str, *, strict: bool) -> AsyncIterator[str]:
        """The state of each of the project's newest jobs, and again whenever one changes."""
        shown: dict[str, Pulse] = {}
        with self._watching(self._projects, project_id):
            while not self.is_closing:
                current = self._by_project.get(project_id, {})
                fresh = [
                    one
                    for one in current.values()
                    if one.job_id not in shown or _state(one) != _state(shown[one.job_id])
                ]
                for pulse in fresh:
                    yield await self._state(project_id, pulse.job_id, strict=strict)
                shown = dict(current)
                if not fresh and not await self._change(project_id):
                    yield ": still here\n\n"

    async def file(self, project_id: str, file_id: str, *, strict: bool) -> AsyncIterator[str]:
        """The state of a file now and once it is validated; ends then, or when the file is gone."""
        shown: str | None = None
        with self._watching(self._files, file_id):
            while not self.is_closing:
                state = self._file_states.get(file_id)
                if state is not None and state != shown:
                    try:
                        yield await self._file(project_id, file_id, strict=strict)
                    except NotFound:  # deleted since it was asked for
                        state = None
                    shown = state or shown or ""
                if state not in (None, FileStatus.uploaded) or (state is None and shown is not None):
                    yield _message("end", {"status": state or "deleted"})
                    return
                if not await self._change(file_id):
                    yield ": still here\n\n"

    @contextmanager
    def _watching(self, watched: "Counter[str]", key: str) -> Any:
        watched[key] += 1
        self._changed.setdefault(key, asyncio.Event())
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll())
        try:
            yield
        finally:
            watched[key] -= 1
            if not watched[key]:
                del watched[key], self._changed[key]
                self._pulses.pop(key, None)
                self._by_project.pop(key, None)
                self._file_states.pop(key, None)

    async def _change(self, key: str) -> bool:
        """Waits for the next change of what is watched; False after a silence."""
        try:
            await asyncio.wait_for(self._changed[key].wait(), HEARTBEAT_SECONDS)
        except TimeoutError:
            return False
        return True

    def _wake(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key in self._changed:
                self._changed[key].set()
                self._changed[key] = asyncio.Event()

    async def _poll(self) -> None:
        try:
            while (self._jobs or self._projects or self._files) and not self.is_closing:
                pause = POLL_SECONDS
                try:
                    asked = list(self._jobs), list(self._projects), list(self._files)
                    found = await run_in_threadpool(self._ask, *asked)
                except DatabaseUnavailable as error:
                    log.info("live.database_away", error=error.message)
                    pause = AWAY_SECONDS
                else:
                    pulses, by_project, file_states = found
                    changed = _differing(self._pulses, pulses) + _differing(self._by_project, by_project)
                    changed += _differing(self._file_states, file_states)
                    self._pulses, self._by_project, self._file_states = found
                    self._wake(changed)
                await asyncio.sleep(pause)
        finally:
            self._poller = None

    def _ask(
        self, jobs: list[str], projects: list[str], files: list[str]
    ) -> tuple[dict[str, Pulse], dict[str, dict[str, Pulse]], dict[str, str]]:
        with self._database.reading() as session:
            pulses = {one.job_id: one for one in changes.pulses(session, jobs)} if jobs else {}
            by_project = {
                project: {one.job_id: one for one in changes.pulses_of_project(session, project)}
                for project in projects
            }
            file_states = uploads.states(session, files) if files else {}
        return pulses, by_project, file_states

    async def _events(self, job_id: str, seq: int, last: int) -> list[tuple[int, str]]:
        """The next events as they go over the wire; asked for once for all streams that stand at the same place."""
        key = (job_id, seq, last)
        if key not in self._shared:
            while len(self._shared) >= KEPT_BATCHES:
                del self._shared[next(iter(self._shared))]
            self._shared[key] = asyncio.create_task(run_in_threadpool(self._read_events, job_id, seq))
        try:
            return await asyncio.shield(self._shared[key])
        except DatabaseUnavailable:
            self._shared.pop(key, None)
            await asyncio.sleep(AWAY_SECONDS)
            return []

    def _read_events(self, job_id: str, seq: int) -> list[tuple[int, str]]:
        with self._database.reading() as session:
            found = changes.events_after(session, job_id, seq, BATCH)
            return [(one.seq, _message(one.type, EventObject.of(one).model_dump(mode="json"), one.id)) for one in found]

    async def _state(self, project_id: str, job_id: str, *, strict: bool) -> str:
        read = partial(self._reader.get, project_id, job_id, strict=strict, samples=False)
        shown = await _retry_read(read)
        return _message("state", shown.model_dump(mode="json"))

    async def _file(self, project_id: str, file_id: str, *, strict: bool) -> str:
        def read() -> FileObject:
            with self._database.reading() as session:
                return FileObject.of(uploads.get_file(session, project_id, file_id), strict=strict)

        shown = await _retry_read(partial(run_in_threadpool, read))
        return _message("state", shown.model_dump(mode="json"))


async def _retry_read(read: Callable[[], Awaitable[T]]) -> T:
    """Return the result of `read`, retried until the database is available."""
    return await retry_async(read, _RETRY_POLICY, is_retryable=lambda error: isinstance(error, DatabaseUnavailable))


def _differing(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    return [key for key in {*old, *new} if old.get(key) != new.get(key)]


def _state(pulse: Pulse) -> tuple[object, ...]:
    return pulse.status, pulse.step, pulse.attempt, pulse.stop_request


def _message(event: str, data: dict[str, Any], event_id: str | None = None) -> str:
    """One message; JSON has no line breaks of its own."""
    lines = [f"event: {event}", f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}"]
    if event_id is not None:
        lines.insert(0, f"id: {event_id}")
    return "\n".join(lines) + "\n\n"
