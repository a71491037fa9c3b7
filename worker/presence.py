"""Tells the database that this worker is there, from a thread of its own. Training does not depend on it."""

import os
import socket
import threading
from collections.abc import Sequence
from functools import lru_cache

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


def name() -> str:
    """What this process is called in leases and attempts."""
    return f"{socket.gethostname()}:{os.getpid()}"


@lru_cache(maxsize=1)
def own_hardware() -> Hardware:
    """Asked once: the answer takes a moment and stays."""
    return hardware.detect(settings.load())


class Presence:
    """One worker's word that it is there, every `heartbeat_seconds`."""

    def __init__(self, configuration: Settings) -> None:
        self._settings = configuration
        self._state = WorkerState.ready
        self._over = threading.Event()
        self._news = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, queues: Sequence[str], slots: int) -> None:
        """Begins to say so; without a database there is nobody to tell."""
        if self._settings.database_url is None:
            return
        arguments = (Database(self._settings.database_url, pool_size=1), tuple(queues), slots)
        self._thread = threading.Thread(target=self._tell, args=arguments, name="presence", daemon=True)
        self._thread.start()

    def drain(self) -> None:
        """From now on it says that it shuts down."""
        self._say(WorkerState.draining)

    def quarantine(self) -> None:
        """From now on it says that its GPU is broken."""
        self._say(WorkerState.quarantined)

    @property
    def takes_jobs(self) -> bool:
        return self._state is WorkerState.ready

    def _say(self, state: WorkerState) -> None:
        self._state = state
        self._news.set()

    def stop(self) -> None:
        """Takes its leave, if the database is there to hear it."""
        self._over.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(timeout=self._settings.heartbeat_seconds)

    def _tell(self, database: Database, queues: Sequence[str], slots: int) -> None:
        mine = own_hardware()
        log.info("worker.hardware", **mine.model_dump(), device=mine.device)
        try:
            while not self._over.is_set():
                self._news.clear()
                try:
                    with database.transaction() as session:
                        presence.beat(session, name(), state=self._state, queues=queues, slots=slots, hardware=mine)
                except DatabaseUnavailable:
                    log.warning("presence.database_unavailable")
                self._news.wait(self._settings.heartbeat_seconds)
            with database.transaction() as session:
                presence.leave(session, name())
        except DatabaseUnavailable:  # a sweep forgets it
            log.warning("presence.database_unavailable")
        finally:
            database.dispose()
