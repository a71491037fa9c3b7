"""Renews the lease of an attempt, polls for stop requests, and fences an attempt without a confirmed lease.

At most one trainer may run a job. A worker that cannot reach the database does not learn that its lease has expired and
that another worker has claimed the job. So it does not wait for the answer: once `fence_seconds` have passed since its
last confirmed heartbeat it kills its trainer. As the fence is shorter than the lease, the trainer is dead before the
job can be claimed again. Only time intervals are compared, never the clocks of two machines.
"""

import contextvars
import threading
import time
from types import TracebackType
from typing import Final, Self

import structlog

from app.core.db import Database
from app.core.errors import DatabaseUnavailable, LostLease
from app.core.jobs import leases, members
from app.core.jobs.leases import Claim
from app.core.jobs.state_machine import StopRequest
from app.core.settings import Settings
from worker.process_control import ProcessControl

log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 1.0
"""Interval of polls for stop requests between heartbeats."""


class LeaseKeeper:
    """Sends heartbeats from one thread; a second thread watches the first, which a hung database call may block."""

    def __init__(
        self, database: Database, claim: Claim, settings: Settings, control: ProcessControl, claimed_at: float
    ) -> None:
        """`claimed_at` is the monotonic time just before the claim: the lease cannot have begun earlier."""
        self._database = database
        self._claim = claim
        self._settings = settings
        self._control = control
        self._last_good = claimed_at
        self._over = threading.Event()
        # Each thread runs in a copy of the context, so that its log lines carry job and attempt.
        self._threads = [
            threading.Thread(
                target=contextvars.copy_context().run, args=(target,), name=f"{name}-{claim.job_id}", daemon=True
            )
            for target, name in ((self._beat, "lease"), (self._watch, "fence"))
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            # The heartbeat thread may hang in a database call. It is a daemon, and ends after the call.
            thread.join(timeout=POLL_SECONDS)

    def _beat(self) -> None:
        interval = self._settings.heartbeat_seconds
        next_beat = time.monotonic() + interval
        while not self._over.wait(min(POLL_SECONDS, interval)):
            begun = time.monotonic()  # before the call: the renewed lease cannot have begun earlier
            try:
                if begun >= next_beat:
                    request = self._heartbeat()
                    self._last_good = begun
                    next_beat = begun + interval
                else:
                    request = self._poll()
            except DatabaseUnavailable:
                log.warning("lease.database_unavailable", seconds_since_heartbeat=begun - self._last_good)
                continue
            except LostLease as error:
                if not self._over.is_set():
                    self._control.fence(error.message)
                return
            if request is not None:
                self._control.request(request)

    def _heartbeat(self) -> StopRequest | None:
        renew = members.heartbeat if self._claim.node else leases.heartbeat
        with self._database.transaction() as session:
            return renew(session, self._claim, self._settings.lease_seconds)

    def _poll(self) -> StopRequest | None:
        with self._database.reading() as session:
            return leases.stop_requested(session, self._claim)

    def _watch(self) -> None:
        fence = self._settings.fence_seconds
        while not self._over.wait(max(0.0, self._last_good + fence - time.monotonic())):
            if time.monotonic() - self._last_good >= fence:
                self._control.fence(f"no confirmed heartbeat for {fence:.0f} s")
                return
