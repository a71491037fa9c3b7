"""What the two runners of an attempt share: `Runner` on the worker that leads it, `MemberRunner` on the others."""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from app.core.db import Database
from app.core.jobs.leases import Claim
from app.core.jobs.outcomes import Ending
from app.core.jobs.state_machine import StopRequest
from app.core.settings import Settings
from app.core.storage.blobs import BlobStore
from worker import rollout_servers
from worker.child_process import log_tail
from worker.lease import LeaseKeeper
from worker.process_control import Drain, ProcessControl
from worker.redaction import Redactor
from worker.report_writer import retry_until_available
from worker.workspace import Workspace

TRAINER: Final = (sys.executable, "-m", "worker.training")
SAVE_GRACE_FACTOR: Final = 3.0
"""Times `cancel_grace_seconds`: the time for a pause or a drain, which finish a step and write a checkpoint."""


class AttemptRunner(ABC):
    """Runs the part of one attempt of one job that belongs to this worker."""

    def __init__(
        self,
        database: Database,
        store: BlobStore,
        settings: Settings,
        claim: Claim,
        *,
        claimed_at: float,
        drain: Drain,
        trainer_command: Sequence[str] = TRAINER,
    ) -> None:
        """`claimed_at` is the monotonic time just before the claim. The run directory is appended to the command."""
        self._database = database
        self._store = store
        self._settings = settings
        self._claim = claim
        self._claimed_at = claimed_at
        self._drain = drain
        self._trainer_command = trainer_command
        self._control = ProcessControl(settings.cancel_grace_seconds * SAVE_GRACE_FACTOR)
        self._workspace = Workspace(settings.runs_dir, store, claim)
        self._redactor = Redactor(settings, os.environ)
        self.gpu_is_broken = False
        """Set by `run`: whether this worker should take no more jobs."""

    @abstractmethod
    def run(self) -> None:
        """Run the part to its end. Its failures are stored, not raised."""

    @contextmanager
    def _holding_lease(self) -> Iterator[None]:
        """Renew the lease during the block, and pass a drain of the worker on. Raises `LostLease`."""
        keeper = LeaseKeeper(self._database, self._claim, self._settings, self._control, self._claimed_at)
        with keeper, self._drain.subscribe(lambda: self._control.request(StopRequest.drain)):
            yield

    def _leave(self) -> None:
        """Leave the machine as it was before the attempt, except for log and spec."""
        self._workspace.clear()
        rollout_servers.wake_up(self._settings)

    def _log_tail(self) -> str:
        return self._redactor.redact(log_tail(self._workspace.log))

    def _write(self, change: Ending) -> None:
        """Run `change` in a transaction, retried until the database is available. Raises `LostLease`."""

        def once() -> None:
            with self._database.transaction() as session:
                change(session)

        retry_until_available(self._control, once)
