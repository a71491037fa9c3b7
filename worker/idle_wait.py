"""Waits of a free slot for a job over several workers, until it leads or joins an attempt."""

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from app.core.db import Database
from app.core.errors import DatabaseUnavailable
from app.core.jobs import gangs, members
from app.core.jobs.gangs import Slot
from app.core.jobs.leases import Claim, Claimer
from worker.process_control import Drain

log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 1.0


class IdleWait:
    """The wait of one slot. Each poll claims the best job for it, so a wait for one job delays no better one."""

    def __init__(self, database: Database, slot: Slot, gpus: int, claim: Claimer) -> None:
        """`claim` claims a job for the slot in the transaction of the session."""
        self._database = database
        self._slot = slot
        self._gpus = gpus
        self._claim = claim
        self._woken = threading.Event()
        self.claimed_at = time.monotonic()
        """The lease of the claim that `run` returns did not begin before this monotonic time."""

    def run(self, drain: Drain, is_over: Callable[[], bool]) -> Claim | None:
        """Wait while a job for several workers is queued; return the claim of this slot, None without one.

        It ends when `is_over` returns True or the drain begins. A claim that another worker has made for this slot is
        returned even then. Raises `DatabaseUnavailable` at the beginning and at the end.
        """
        with self._database.transaction() as session:
            gangs.wait(session, self._slot, self._gpus)
        log.info("slot.waiting", slot=self._slot.id)
        with drain.subscribe(self._woken.set):
            while not (drain.begun or is_over()):
                self._woken.wait(POLL_SECONDS)
                try:
                    claim, is_awaited = self._poll()
                except DatabaseUnavailable:
                    log.warning("slot.database_unavailable")
                    continue
                if claim is not None:
                    return claim
                if not is_awaited:
                    break
        with self._database.transaction() as session:
            return None if gangs.leave(session, self._slot) else members.claim_of(session, self._slot)

    def _poll(self) -> tuple[Claim | None, bool]:
        """Claim a job; return the claim, and whether a job for several workers is still queued."""
        begun = time.monotonic()
        with self._database.transaction() as session:
            if not gangs.lock(session, self._slot):
                # Another worker has taken the slot since the previous poll, whose time `claimed_at` keeps.
                return members.claim_of(session, self._slot), False
            claim = self._claim(session)
            if claim is not None:
                gangs.leave(session, self._slot)
            else:
                gangs.wait(session, self._slot, self._gpus)
            is_awaited = gangs.is_awaited(session, self._gpus)
        self.claimed_at = begun
        return claim, is_awaited
