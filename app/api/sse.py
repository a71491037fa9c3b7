"""Server-sent events: one poller per process queries Postgres for all streams; each stream has its own position.

A stream has no queue. It remembers the sequence number of the last event that it sent and, whenever it wakes, reads the
events after that number from Postgres. A slow client therefore costs no memory, and a client that reconnects with
`Last-Event-ID` misses nothing: its stream starts after that event.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import contextmanager, suppress
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
from app.core.jobs.changes import JobSnapshot
from app.core.retry import RetryPolicy, retry_async

log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 0.05
AWAY_SECONDS: Final = 1.0
"""Pause between queries while the database is unavailable."""
_RETRY_POLICY: Final = RetryPolicy(attempts=None, longest_wait_seconds=AWAY_SECONDS)
HEARTBEAT_SECONDS: Final = 15.0
"""Silence after which a comment is sent, so that proxies do not close the connection."""
HEARTBEAT: Final = ": still here\n\n"
BATCH: Final = 200
"""Events per query."""
KEPT_BATCHES: Final = 64
"""Batches of events that streams at the same position share."""

T = TypeVar("T")


class Hub:
    """Runs the poller of one process and wakes the streams whose job, project or file has changed.

    Everything but the queries runs in one event loop, so that no locks are needed: state changes only at an `await`.
    """

    def __init__(self, database: Database, reader: JobReader, *, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self._database, self._reader = database, reader
        self._heartbeat_seconds = heartbeat_seconds
        # Number of open streams by the id that they watch. The poller queries these ids and stops when none is left.
        self._jobs: Counter[str] = Counter()
        self._projects: Counter[str] = Counter()
        self._files: Counter[str] = Counter()
        # Results of the latest poll. Streams compare them with what they have sent.
        self._snapshots: dict[str, JobSnapshot] = {}
        self._by_project: dict[str, dict[str, JobSnapshot]] = {}
        self._file_states: dict[str, str] = {}
        self._deleted: set[str] = set()
        """Watched jobs and files that the latest poll did not find."""
        self._changed: dict[str, asyncio.Event] = {}
        """By the watched id, so that a change wakes only the streams that watch it."""
        self._poller: asyncio.Task[None] | None = None
        self._shared: dict[tuple[str, int, int], asyncio.Task[list[tuple[int, str]]]] = {}
        self.is_closing = False

    def close(self) -> None:
        """End all streams. Called from the event loop when the server stops."""
        self.is_closing = True
        self._wake(list(self._changed))

    async def job(self, project_id: str, job_id: str, seq: int, *, strict: bool) -> AsyncGenerator[str]:
        """Yield the messages of one job, starting after event number `seq`.

        Ends when the job ends or is deleted, or when the server ends.
        """
        shown: JobSnapshot | None = None
        with self._watching(self._jobs, job_id):
            while not self.is_closing:
                if job_id in self._deleted:
                    yield _DELETED
                    return
                # Another stream of the job may have started the poller long ago: then the snapshot is already here, and
                # this stream sends the current state and the missing events without waiting for the next change.
                snapshot = self._snapshots.get(job_id)
                if snapshot is not None and snapshot != shown:
                    if shown is None or _state(snapshot) != _state(shown):
                        try:
                            yield await self._state(project_id, job_id, strict=strict)
                        except NotFound:  # deleted since the poll
                            yield _DELETED
                            return
                    async for number, text in self._events(job_id, seq, snapshot.last_seq):
                        yield text
                        seq = number
                    shown = snapshot
                    if snapshot.is_final:
                        yield _message("end", {"status": snapshot.status})
                        return
                    # Each `yield` above may have taken long; compare with the latest snapshot again before waiting.
                    continue
                # Nothing has been awaited since `snapshot` was read, so no change can fall between reading and waiting.
                if not await self._wait(job_id):
                    yield HEARTBEAT

    async def project(self, project_id: str, *, strict: bool) -> AsyncGenerator[str]:
        """Yield the state of each of the project's newest jobs, and again whenever one changes."""
        shown: dict[str, JobSnapshot] = {}
        with self._watching(self._projects, project_id):
            while not self.is_closing:
                current = self._by_project.get(project_id, {})
                fresh = [
                    snapshot
                    for snapshot in current.values()
                    if snapshot.job_id not in shown or _state(snapshot) != _state(shown[snapshot.job_id])
                ]
                for snapshot in fresh:
                    with suppress(NotFound):  # deleted since the poll
                        yield await self._state(project_id, snapshot.job_id, strict=strict)
                shown = dict(current)
                if not fresh and not await self._wait(project_id):
                    yield HEARTBEAT

    async def file(self, project_id: str, file_id: str, *, strict: bool) -> AsyncGenerator[str]:
        """Yield the state of a file now and after its validation; end then, or when the file is deleted."""
        shown: str | None = None
        with self._watching(self._files, file_id):
            while not self.is_closing:
                if file_id in self._deleted:
                    yield _DELETED
                    return
                state = self._file_states.get(file_id)
                if state is not None and state != shown:
                    try:
                        yield await self._file(project_id, file_id, strict=strict)
                    except NotFound:  # deleted since the poll
                        yield _DELETED
                        return
                    shown = state
                if state not in (None, FileStatus.uploaded):
                    yield _message("end", {"status": state})
                    return
                if not await self._wait(file_id):
                    yield HEARTBEAT

    @contextmanager
    def _watching(self, watched: "Counter[str]", key: str) -> Any:
        """Count a stream that watches `key`; the first one starts the poller, the last one drops the key's results."""
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
                self._snapshots.pop(key, None)
                self._by_project.pop(key, None)
                self._file_states.pop(key, None)
                self._deleted.discard(key)

    async def _wait(self, key: str) -> bool:
        """Wait for the next change of `key`; return False if none comes before a heartbeat is due."""
        try:
            await asyncio.wait_for(self._changed[key].wait(), self._heartbeat_seconds)
        except TimeoutError:
            return False
        return True

    def _wake(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key in self._changed:
                # The streams that wait now wake up; the next wait needs an event that is not set.
                self._changed[key].set()
                self._changed[key] = asyncio.Event()

    async def _poll(self) -> None:
        """Query the watched ids every `POLL_SECONDS` and wake the streams of those that differ from the last poll."""
        try:
            while (self._jobs or self._projects or self._files) and not self.is_closing:
                pause = POLL_SECONDS
                try:
                    watched = list(self._jobs), list(self._projects), list(self._files)
                    result = await run_in_threadpool(self._query, *watched)
                except DatabaseUnavailable as error:
                    log.info("live.database_away", error=error.message)
                    pause = AWAY_SECONDS
                else:
                    snapshots, by_project, file_states = result
                    changed = _differing(self._snapshots, snapshots) + _differing(self._by_project, by_project)
                    changed += _differing(self._file_states, file_states)
                    self._snapshots, self._by_project, self._file_states = result
                    jobs, _, files = watched
                    deleted = {*jobs, *files} - snapshots.keys() - file_states.keys()
                    self._wake(changed + list(deleted - self._deleted))
                    self._deleted = deleted
                await asyncio.sleep(pause)
        finally:
            self._poller = None

    def _query(
        self, jobs: list[str], projects: list[str], files: list[str]
    ) -> tuple[dict[str, JobSnapshot], dict[str, dict[str, JobSnapshot]], dict[str, str]]:
        with self._database.reading() as session:
            snapshots = {snapshot.job_id: snapshot for snapshot in changes.snapshots(session, jobs)} if jobs else {}
            by_project = {
                project: {snapshot.job_id: snapshot for snapshot in changes.project_snapshots(session, project)}
                for project in projects
            }
            file_states = uploads.statuses(session, files) if files else {}
        return snapshots, by_project, file_states

    async def _events(self, job_id: str, seq: int, last: int) -> AsyncGenerator[tuple[int, str]]:
        """Yield the events after `seq` up to `last`, and newer ones in the same batch, as (number, message)."""
        while seq < last:
            batch = await self._batch(job_id, seq, last)
            if not batch:  # the job was deleted
                return
            for event in batch:
                yield event
            seq = batch[-1][0]

    async def _batch(self, job_id: str, seq: int, last: int) -> list[tuple[int, str]]:
        """Return the events after `seq` as (number, message), at most `BATCH`, once the database is available.

        Streams at the same position share one query and one rendering. `last`, the newest event's number, is part of
        the key: without it a stream could get a batch that was read before that event was written, and miss the event.
        """
        key = (job_id, seq, last)

        async def read() -> list[tuple[int, str]]:
            if key not in self._shared:
                while len(self._shared) >= KEPT_BATCHES:
                    del self._shared[next(iter(self._shared))]  # the oldest
                self._shared[key] = asyncio.create_task(run_in_threadpool(self._read_events, job_id, seq))
            shared = self._shared[key]
            try:
                # Shielded: a client that disconnects must not cancel the query of the other streams.
                return await asyncio.shield(shared)
            except DatabaseUnavailable:
                if self._shared.get(key) is shared:
                    del self._shared[key]
                raise

        return await _retry_read(read)

    def _read_events(self, job_id: str, seq: int) -> list[tuple[int, str]]:
        with self._database.reading() as session:
            return [
                (event.seq, _message(event.type, EventObject.of(event).model_dump(mode="json"), event.id))
                for event in changes.events_after(session, job_id, seq, BATCH)
            ]

    async def _state(self, project_id: str, job_id: str, *, strict: bool) -> str:
        read = partial(self._reader.get, project_id, job_id, strict=strict, samples=False)
        job = await _retry_read(read)
        return _message("state", job.model_dump(mode="json"))

    async def _file(self, project_id: str, file_id: str, *, strict: bool) -> str:
        def read() -> FileObject:
            with self._database.reading() as session:
                return FileObject.of(uploads.get_file(session, project_id, file_id), strict=strict)

        file = await _retry_read(partial(run_in_threadpool, read))
        return _message("state", file.model_dump(mode="json"))


async def _retry_read(read: Callable[[], Awaitable[T]]) -> T:
    """Return the result of `read`, retried until the database is available."""
    return await retry_async(read, _RETRY_POLICY, is_retryable=lambda error: isinstance(error, DatabaseUnavailable))


def _differing(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    return [key for key in {*old, *new} if old.get(key) != new.get(key)]


def _state(snapshot: JobSnapshot) -> tuple[object, ...]:
    phase = snapshot.is_training, snapshot.is_evaluated
    return snapshot.status, snapshot.step, snapshot.attempt, snapshot.stop_request, phase


def _message(event: str, data: dict[str, Any], event_id: str | None = None) -> str:
    """Render one message. JSON needs only one `data:` line, because it escapes line breaks."""
    lines = [f"event: {event}", f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}"]
    if event_id is not None:
        lines.insert(0, f"id: {event_id}")
    return "\n".join(lines) + "\n\n"


_DELETED: Final = _message("end", {"status": "deleted"})
"""The last message about an object that was deleted."""
