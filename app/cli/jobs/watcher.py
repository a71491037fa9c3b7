"""Follows a job over the API until it ends, and reconnects when the server is unavailable. Prints nothing."""

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
"""Two heartbeat intervals of the server; after a longer silence the connection counts as lost."""
SHORTEST_SILENCE_SECONDS: Final = 0.05
RECONNECT_SECONDS: Final = 1.0
_RETRY_POLICY: Final = RetryPolicy(attempts=None, longest_wait_seconds=RECONNECT_SECONDS)
FILE_POLL_SECONDS: Final = 0.25
OUTAGE_SECONDS: Final = 300.0
"""How long the server may be unavailable before the command gives up."""
REPORT_AFTER_SECONDS: Final = 5.0
"""Outages longer than this are reported to the user."""

Pause = Callable[[float], object]
"""Blocks for a number of seconds; may raise to end the wait."""
Report = Callable[[str], object]
"""Shows a message to the user."""
Result = TypeVar("Result")


def _report_nothing(_message: str) -> None:
    """The default `report` callback."""


class WaitTimeout(GrouptuneError):
    """The wait timed out; the job continues."""

    code = "wait_timeout"


@dataclass(frozen=True)
class Snapshot:
    """The current state of a job and the events since the last snapshot, oldest first."""

    job: Json
    events: list[Json]

    @property
    def is_final(self) -> bool:
        return self.job["status"] in TERMINAL


class _Outage:
    """Tracks how long the server has been unavailable, and reports an outage that is more than a hiccup."""

    def __init__(self, report: Report, longest_seconds: float, report_after_seconds: float) -> None:
        self._report = report
        self._longest_seconds, self._report_after_seconds = longest_seconds, report_after_seconds
        self.end()

    def end(self) -> None:
        """Record that the server has answered."""
        self._last_answer = time.monotonic()
        self._is_reported = False

    def tolerate(self, error: ServerUnreachable | ApiError) -> None:
        """Raise the error unless it is temporary and the server answered recently enough."""
        seconds = time.monotonic() - self._last_answer
        if not error.is_temporary or seconds > self._longest_seconds:
            raise error
        if seconds > self._report_after_seconds and not self._is_reported:
            self._is_reported = True
            self._report(f"{error.message.rstrip('.')}. Retrying for up to {self._longest_seconds / 60:g} minutes.")


def retry_until_available(
    request: Callable[[], Result],
    *,
    pause: Pause = time.sleep,
    report: Report = _report_nothing,
    outage_seconds: float = OUTAGE_SECONDS,
    report_after_seconds: float = REPORT_AFTER_SECONDS,
) -> Result:
    """Return the result of `request`, retried while the server is unavailable.

    Raises the last error once the outage exceeds `outage_seconds`, and a permanent error at once.
    """
    outage = _Outage(report, outage_seconds, report_after_seconds)

    def is_retryable(error: Exception) -> bool:
        if isinstance(error, ServerUnreachable | ApiError):
            outage.tolerate(error)  # raises unless the outage may still end
            return True
        return False

    return retry(request, _RETRY_POLICY, is_retryable=is_retryable, wait=pause)


def watch(
    client: Client,
    job_id: str,
    *,
    pause: Pause = time.sleep,
    timeout_seconds: float | None = None,
    report: Report = _report_nothing,
    outage_seconds: float = OUTAGE_SECONDS,
) -> Iterator[Snapshot]:
    """Yield snapshots of a job until its terminal state; together they contain every event exactly once.

    Raises `WaitTimeout` after `timeout_seconds`, and the client's error once the server has been unavailable for
    `outage_seconds`; `report` receives a message before that.
    """
    deadline = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
    outage = _Outage(report, outage_seconds, REPORT_AFTER_SECONDS)
    stream = _JobStream(client, job_id, pause, deadline, outage.end)
    while True:
        try:
            yield from stream.snapshots()
        except (ServerUnreachable, ApiError) as error:
            outage.tolerate(error)
        if stream.has_ended:
            return
        if stream.left() <= 0:
            raise WaitTimeout(f"{job_id} has not ended after {timeout_seconds:g} s. It continues.")
        pause(min(RECONNECT_SECONDS, stream.left()))


class _JobStream:
    """The event stream of a job, resumed over as many connections as necessary."""

    def __init__(
        self, client: Client, job_id: str, pause: Pause, deadline: float, on_message: Callable[[], object]
    ) -> None:
        """`deadline` is monotonic; `on_message` is called for every message of the server."""
        self.has_ended = False
        self._client = client
        self._path = f"/fine_tuning/jobs/{job_id}"
        self._pause = pause
        self._deadline = deadline
        self._on_message = on_message
        self._job: Json = {}
        self._events: list[Json] = []
        """Events that no snapshot contains yet."""
        self._last_id: str | None = None

    def left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - time.monotonic()

    def snapshots(self) -> Iterator[Snapshot]:
        """Yield the snapshots of one connection."""
        # The read timeout is fixed when the connection opens. Close to the deadline it must be shorter, so the
        # loop below returns early and the caller connects again with what is left.
        silence = max(SHORTEST_SILENCE_SECONDS, min(SILENCE_SECONDS, self.left()))
        stream = self._client.stream(f"{self._path}/stream", last_id=self._last_id, silence_seconds=silence)
        with closing(stream) as messages:
            for message in messages:
                self._on_message()
                if self._apply(message):
                    events, self._events = self._events, []
                    yield Snapshot(self._job, events)
                if self.has_ended or self.left() < silence / 2:
                    return
                self._pause(0)

    def _apply(self, message: ServerSentEvent) -> bool:
        """Apply a message; returns whether a snapshot is due. The final snapshot waits for the job's last event."""
        match message.name:
            case "state":
                self._job = message.data
            case "message" | "metrics":
                self._last_id = message.id
                self._events.append(message.data)
            case "end":
                if message.data.get("status") == "deleted":
                    self._client.get(self._path)  # raises the server's 404
                self.has_ended = True
            case _:  # a heartbeat: the queue position can change without a change of the job
                if self._job.get("status") != "queued":
                    return False
                self._job = self._client.get(self._path)
        return self.has_ended or self._job["status"] not in TERMINAL


def wait_for_file(
    client: Client, file_id: str, *, pause: Pause = time.sleep, timeout_seconds: float = math.inf
) -> Json:
    """Poll a file until it is validated (`status` is `processed` or `error`), at most for `timeout_seconds`."""
    started = time.monotonic()
    while True:
        file = retry_until_available(lambda: client.get(f"/files/{file_id}"), pause=pause)
        if file["status"] in ("processed", "error") or time.monotonic() - started > timeout_seconds:
            return file
        pause(FILE_POLL_SECONDS)
