"""Reports this worker's presence to the database, from its own thread. Training does not depend on it."""

import os
import socket
import threading
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from typing import Final

import structlog

from app.core import settings
from app.core.db import Database
from app.core.errors import DatabaseUnavailable
from app.core.settings import Settings
from app.core.spec.hardware import Hardware
from app.core.workers import presence
from app.core.workers.tables import WorkerState
from worker import hardware

log = structlog.get_logger(__name__)

TRACKER_LIBRARIES: Final = {
    "wandb": "wandb",
    "mlflow": "mlflow",
    "tensorboard": "tensorboardX",
    "trackio": "trackio",
}
"""The library that each tracker imports."""


def name() -> str:
    """Return the name of this process in leases and attempts."""
    return f"{socket.gethostname()}:{os.getpid()}"


@lru_cache(maxsize=1)
def own_hardware() -> Hardware:
    """Return this worker's hardware; detected once, because detection takes a moment and the result does not change."""
    return hardware.detect(settings.load())


@lru_cache(maxsize=1)
def own_kind() -> str | None:
    """Return this worker's version, PyTorch build and device; None without PyTorch.

    Processes of different builds cannot be relied on to form one process group.
    """
    try:
        builds = ", ".join(f"{package} {metadata.version(package)}" for package in ("grouptune", "torch"))
    except metadata.PackageNotFoundError:
        return None
    return f"{builds}, {own_hardware().accelerator or 'CPU'}"


def installed_trackers(allowed: Sequence[str]) -> list[str]:
    """Return the trackers of `allowed` whose libraries this worker has."""
    return [tracker for tracker in allowed if find_spec(TRACKER_LIBRARIES[tracker]) is not None]


class Presence:
    """Updates the row of one worker every `heartbeat_seconds`."""

    def __init__(self, configuration: Settings) -> None:
        self._settings = configuration
        self._state = WorkerState.ready
        self._problem: str | None = None
        self._over = threading.Event()
        self._changed = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, queues: Sequence[str], slots: int) -> None:
        """Start reporting; does nothing without a database."""
        if self._settings.database_url is None:
            return
        arguments = (Database(self._settings.database_url, pool_size=1), tuple(queues), slots)
        self._thread = threading.Thread(target=self._report, args=arguments, name="presence", daemon=True)
        self._thread.start()

    def drain(self) -> None:
        """Report from now on that the worker is draining."""
        self._set_state(WorkerState.draining)

    def quarantine(self) -> None:
        """Report from now on that the worker's GPU is broken."""
        self._set_state(WorkerState.quarantined)

    def report_problem(self, problem: str | None) -> None:
        """Report from now on why the worker takes no jobs; None once it takes jobs again."""
        if problem != self._problem:
            self._problem = problem
            self._changed.set()

    @property
    def takes_jobs(self) -> bool:
        return self._state is WorkerState.ready

    def _set_state(self, state: WorkerState) -> None:
        self._state = state
        self._changed.set()

    def stop(self) -> None:
        """Stop reporting and remove the row, if the database is available."""
        self._over.set()
        self._changed.set()
        if self._thread is not None:
            self._thread.join(timeout=self._settings.heartbeat_seconds)

    def _report(self, database: Database, queues: Sequence[str], slots: int) -> None:
        detected, trackers = own_hardware(), installed_trackers(self._settings.trackers)
        log.info("worker.hardware", **detected.model_dump(), device=detected.device)
        try:
            while not self._over.is_set():
                self._changed.clear()
                try:
                    with database.transaction() as session:
                        presence.beat(
                            session,
                            name(),
                            state=self._state,
                            queues=queues,
                            slots=slots,
                            hardware=detected,
                            trackers=trackers,
                            kind=own_kind(),
                            problem=self._problem,
                        )
                except DatabaseUnavailable:
                    log.warning("presence.database_unavailable")
                self._changed.wait(self._settings.heartbeat_seconds)
            with database.transaction() as session:
                presence.leave(session, name())
        except DatabaseUnavailable:  # the row stays, and a sweep removes it later
            log.warning("presence.database_unavailable")
        finally:
            database.dispose()
