"""Follows a job over the API until it ends, through short absences of the server. Draws nothing."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Final, TypeVar

from app.client import ApiError, Client, Json, ServerSentEvent, ServerUnreachable
from app.core.errors import GrouptuneError
from app.core.jobs.state_machine import TERMINAL
from app.core.retry import RetryPolicy, retry

SILENCE_SECONDS: Final = 30.0
"""Two of the server's heartbeats; after that the connection is taken for lost."""
SHORTEST_SILENCE_SECONDS: Final = 0.05
RECONNECT_SECONDS: Final = 1.0
_RETRY_POLICY: Final = RetryPolicy(attempts=None, longest_wait_seconds=RECONNECT_SECONDS)
FILE_POLL_SECONDS: Final = 0.25
AWAY_SECONDS: Final = 300.0
"""How long a server may be away before waiting gives up."""
TOLD_SECONDS: Final = 5.0
"""After so long people are told why nothing happens."""

Pause = Callable[[float], object]
"""Blocks for so many seconds; may raise to end the wait."""
Tell = Callable[[str], object]
Answer = TypeVar("Answer")


def _silently(_sentence: str) -> None:
    """Where nobody reads."""


class WaitTimeout(GrouptuneError):
    """The time to wait is over; the job goes on."""

    code = "wait_timeout"


@dataclass(frozen=True)
class Snapshot:
    """A job as it is now and the events since the last snapshot, the oldest first."""

    job: Json
    events: list[Json]

    @property
    def is_final(self) -> bool:
        return self.job["status"] in TERMINAL


class _Absence:
    """Of the server: ridden out for a while, and told of when it is more than a blink."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self.end()

    def end(self) -> None:
        """The server has answered."""
        self._since = time.monotonic()
        self._told = False

    def ride_out(self, error: ServerUnreachable | ApiError) -> None:
        """Raises the error unless it may pass and the server was there less than `AWAY_SECONDS` ago."""
        away = time.monotonic() - self._since
        if not error.is_temporary or away > AWAY_SECONDS:
            raise error
        if away > TOLD_SECONDS and not self._told:
            self._told = True
            self._tell(f"{error.message.rstrip('.')}. Trying again for up to {AWAY_SECONDS / 60:g} minutes.")


def patiently(ask: Callable[[], Answer], *, pause: Pause = time.sleep, tell: Tell = _silently) -> Answer:
    """What `ask` returns, asked again while the server is away. Raises what it raised last after `AWAY_SECONDS`."""
    absence = _Absence(tell)

    def is_retryable(error: Exception) -> bool:
        if isinstance(error, ServerUnreachable | ApiError):
            absence.ride_out(error)  # raises unless the server may still come back
            return True
        return False

    return retry(ask, _RETRY_POLICY, is_retryable=is_retryable, wait=pause)


def watch(
    client: Client,
    job_id: str,
    *,
    pause: Pause = time.sleep,
    timeout_seconds: float | None = None,
    tell: Tell = _silently,
) -> Iterator[Snapshot]:
    """Snapshots of a job, the last one of its terminal state; all together have every event once.

    Raises `WaitTimeout` after `timeout_seconds`, and what the client raises once the server has been away for
    `AWAY_SECONDS`; `tell` gets a sentence before.
    """
    deadline = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
    absence = _Absence(tell)
    stream = _Stream(client, job_id, pause, deadline, absence.end)
    while True:
        try:
            yield from stream.snapshots()
        except (ServerUnreachable, ApiError) as error:
            absence.ride_out(error)
        if stream.has_ended:
            return
        if stream.left() <= 0:
            raise WaitTimeout(f"{job_id} has not ended after {timeout_seconds:g} s; it goes on.")
        pause(min(RECONNECT_SECONDS, stream.left()))


class _Stream:
    """A job's stream across as many connections as it takes."""

    def __init__(self, client: Client, job_id: str, pause: Pause, deadline: float, heard: Callable[[], object]) -> None:
        """`deadline` is monotonic; `heard` is called whenever the server was heard of."""
        self.has_ended = False
        self._client = client
        self._path = f"/fine_tuning/jobs/{job_id}"
        self._pause = pause
        self._deadline = deadline
        self._heard = heard
        self._job: Json = {}
        self._events: list[Json] = []
        """Not in a snapshot yet."""
        self._last_id: str | None = None

    def left(self) -> float:
        """Seconds until the time to wait is over."""
        return self._deadline - time.monotonic()

    def snapshots(self) -> Iterator[Snapshot]:
        """Those of one connection, which ends early when the time to wait does: its read limit is set only once."""
        silence = max(SHORTEST_SILENCE_SECONDS, min(SILENCE_SECONDS, self.left()))
        stream = self._client.stream(f"{self._path}/stream", last_id=self._last_id, silence_seconds=silence)
        with closing(stream) as messages:
            for message in messages:
                self._heard()
                if self._take(message):
                    events, self._events = self._events, []
                    yield Snapshot(self._job, events)
                if self.has_ended or self.left() < silence / 2:
                    return
                self._pause(0)

    def _take(self, message: ServerSentEvent) -> bool:
        """Notes a message; whether there is something to show. The last snapshot waits for the job's last event."""
        match message.name:
            case "state":
                self._job = message.data
            case "message" | "metrics":
                self._last_id = message.id
                self._events.append(message.data)
            case "end":
                self.has_ended = True
            case _:  # a heartbeat: the place in the queue changes although the job does not
                if self._job.get("status") != "queued":
                    return False
                self._job = self._client.get(self._path)
        return self.has_ended or self._job["status"] not in TERMINAL


def wait_for_file(
    client: Client, file_id: str, *, pause: Pause = time.sleep, timeout_seconds: float = math.inf
) -> Json:
    """The file once it is validated, its `status` then `processed` or `error`; as it is after `timeout_seconds`."""
    begun = time.monotonic()
    while True:
        file = patiently(lambda: client.get(f"/files/{file_id}"), pause=pause)
        if file["status"] in ("processed", "error") or time.monotonic() - begun > timeout_seconds:
            return file
        pause(FILE_POLL_SECONDS)
