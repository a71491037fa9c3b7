"""Keeps a claim alive, hears what clients ask, and fences the attempt that cannot be sure of its lease."""

import contextvars
import threading
import time
from types import TracebackType
from typing import Final, Self

import structlog

from app.core.db import Database
from app.core.errors import DatabaseUnavailable, LostLease
from app.core.jobs import leases
from app.core.jobs.leases import Claim
from app.core.jobs.state_machine import StopRequest
from app.core.settings import Settings
from worker.process_control import ProcessControl

log = structlog.get_logger(__name__)

LISTEN_SECONDS: Final = 1.0
"""How often stop requests are looked up between heartbeats."""


class LeaseKeeper:
    """Heartbeats in a thread; a second one watches the first, which a hung database may hold up."""

    def __init__(
        self, database: Database, claim: Claim, settings: Settings, control: ProcessControl, claimed_at: float
    ) -> None:
        """`claimed_at` is the monotonic clock just before the claim."""
        self._database = database
        self._claim = claim
        self._settings = settings
        self._control = control
        self._last_good = claimed_at
        self._over = threading.Event()
        # Each in a copy of the context, so that what it logs carries job and attempt.
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
            # The beat may hang in a database call; it is a daemon and does nothing after it.
            thread.join(timeout=LISTEN_SECONDS)

    def _beat(self) -> None:
        interval = self._settings.heartbeat_seconds
        next_beat = time.monotonic() + interval
        while not self._over.wait(min(LISTEN_SECONDS, interval)):
            begun = time.monotonic()
            try:
                if begun >= next_beat:
                    request = self._heartbeat()
                    self._last_good = begun
                    next_beat = begun + interval
                else:
                    request = self._listen()
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
        with self._database.transaction() as session:
            return leases.heartbeat(session, self._claim, self._settings.lease_seconds)

    def _listen(self) -> StopRequest | None:
        with self._database.transaction() as session:
            return leases.stop_requested(session, self._claim)

    def _watch(self) -> None:
        fence = self._settings.fence_seconds
        while not self._over.wait(max(0.0, self._last_good + fence - time.monotonic())):
            if time.monotonic() - self._last_good >= fence:
                self._control.fence(f"no good heartbeat for {fence:.0f} s")
                return
