"""Follows a job over the API until it ends, through short absences of the server. Draws nothing."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from app.client import ApiError, Client, Json, ServerUnreachable
from app.core.errors import GrouptuneError
from app.core.jobs.states import TERMINAL

POLL_SECONDS: Final = 1.0
FILE_POLL_SECONDS: Final = 0.25
AWAY_SECONDS: Final = 300.0
"""How long a server may be away before waiting gives up."""

Pause = Callable[[float], object]
"""Blocks for so many seconds; may raise to end the wait."""


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


def watch(
    client: Client, job_id: str, *, pause: Pause = time.sleep, timeout_seconds: float | None = None
) -> Iterator[Snapshot]:
    """Snapshots of a job, the last one of its terminal state with all events.

    Raises `WaitTimeout` after `timeout_seconds`, and what the client raises once the server has been away for
    `AWAY_SECONDS`.
    """
    begun = reached = time.monotonic()
    last_event: str | None = None
    while True:
        try:
            # The job first: when it has ended, the events that follow are complete.
            job = client.get(f"/fine_tuning/jobs/{job_id}")
            events = _events_since(client, job_id, last_event)
        except (ServerUnreachable, ApiError) as error:
            temporary = isinstance(error, ServerUnreachable) or error.is_temporary
            if not temporary or time.monotonic() - reached > AWAY_SECONDS:
                raise
        else:
            reached = time.monotonic()
            last_event = events[-1]["id"] if events else last_event
            snapshot = Snapshot(job, events)
            yield snapshot
            if snapshot.is_final:
                return
        if timeout_seconds is not None and time.monotonic() - begun > timeout_seconds:
            raise WaitTimeout(f"{job_id} has not ended after {timeout_seconds:g} s; it goes on.")
        pause(POLL_SECONDS)


def wait_for_file(
    client: Client, file_id: str, *, pause: Pause = time.sleep, timeout_seconds: float = math.inf
) -> Json:
    """The file once it is validated, its `status` then `processed` or `error`; as it is after `timeout_seconds`."""
    begun = time.monotonic()
    while True:
        file = client.get(f"/files/{file_id}")
        if file["status"] in ("processed", "error") or time.monotonic() - begun > timeout_seconds:
            return file
        pause(FILE_POLL_SECONDS)


def _events_since(client: Client, job_id: str, last_event: str | None) -> list[dict[str, Any]]:
    fresh = []
    for event in client.pages(f"/fine_tuning/jobs/{job_id}/events"):  # newest first
        if event["id"] == last_event:
            break
        fresh.append(event)
    return fresh[::-1]
