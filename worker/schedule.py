"""Runs the sweeps, from threads of their own, in every worker: whichever worker finds a sweep due first runs it.

They need neither the broker nor a free slot, and the loss of a worker delays a sweep by no more than its interval.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import structlog

from app.core.db import Database
from app.core.errors import DatabaseUnavailable
from app.core.storage.blobs import StorageUnavailable
from app.core.workers import sweeps

log = structlog.get_logger(__name__)

STOP_SECONDS: Final = 10.0
"""A worker that ends waits so long for a sweep that is running. All of them may be cut off at any point."""


class Sweep(NamedTuple):
    """A task that runs every `every_seconds` in one of the workers."""

    name: str
    every_seconds: float
    run: Callable[[], object]


class Schedule:
    """The threads of one worker, one for each sweep, so that a long one delays no other."""

    def __init__(self, sweeps: Sequence[Sweep], worker: str) -> None:
        """`worker` is this process's name in the table of sweeps."""
        self._sweeps = sweeps
        self._worker = worker
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, database: Database) -> None:
        """Start all sweeps; those that are due run at once."""
        for sweep in self._sweeps:
            name = f"sweep-{sweep.name}"
            self._threads.append(threading.Thread(target=self._repeat, args=(database, sweep), name=name, daemon=True))
            self._threads[-1].start()

    def end(self) -> None:
        """Begin no more sweeps. Returns at once."""
        self._over.set()

    def join(self) -> None:
        """Wait for the sweeps that are running, but not for long."""
        for thread in self._threads:
            thread.join(STOP_SECONDS / len(self._threads))

    def _repeat(self, database: Database, sweep: Sweep) -> None:
        wait = 0.0
        while not self._over.wait(wait):
            wait = self._run_if_due(database, sweep)

    def _run_if_due(self, database: Database, sweep: Sweep) -> float:
        """Run the sweep if no other worker has claimed it; return the seconds until it may be due again."""
        try:
            with database.reading() as session:
                wait = sweeps.seconds_until_due(session, sweep.name, sweep.every_seconds)
            if wait > 0:
                return wait
            with database.transaction() as session:
                is_claimed = sweeps.claim(session, sweep.name, sweep.every_seconds, self._worker)
            if is_claimed:
                sweep.run()
        except (DatabaseUnavailable, StorageUnavailable) as error:
            log.warning("sweep.unavailable", sweep=sweep.name, error=error.message)
        except Exception:  # a fault in one run must not end the thread, and with it all later runs
            log.exception("sweep.failed", sweep=sweep.name)
        else:
            return 0.0
        return sweep.every_seconds
