"""Writes a trainer's reports to the journal: events at once, metrics in batches of a second, none lost."""

import queue
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import structlog
from pydantic import ValidationError

from app.core.errors import DatabaseUnavailable
from app.core.jobs.checkpoints import StoredCheckpoint
from app.core.jobs.journal import Journal, JournalEntry
from app.core.jobs.leases import Claim
from app.core.models.adapters import ADAPTER_FILES
from app.core.prometheus import GRADER_ERRORS, STEP_SECONDS
from app.core.retry import RetryPolicy, retry
from app.core.spec.reports import (
    CheckpointSaved,
    Evaluated,
    Failed,
    Finished,
    Groups,
    Message,
    Metrics,
    Report,
    TeacherAnswers,
    report_adapter,
)
from app.core.storage.blobs import BlobStore, StorageUnavailable
from worker.child_process import ChildProcess
from worker.process_control import ProcessControl

log = structlog.get_logger(__name__)

BATCH_SECONDS: Final = 1.0
BATCH_ROWS: Final = 100
RETRY_SECONDS: Final = 1.0
_RETRY_POLICY: Final = RetryPolicy(attempts=None, longest_wait_seconds=RETRY_SECONDS)

_T = TypeVar("_T")


@dataclass
class TrainerOutcome:
    """What the trainer reported about its end."""

    finished: Finished | None = None
    failed: Failed | None = None


def retry_until_available(control: ProcessControl, work: Callable[[], _T]) -> _T:
    """Return the result of `work`, retried until the database is available. Raises `LostLease` once fenced."""

    def attempt() -> _T:
        control.check()
        return work()

    def wait(seconds: float) -> None:
        log.warning("journal.database_unavailable")
        control.pause_for(seconds)

    return retry(attempt, _RETRY_POLICY, is_retryable=lambda error: isinstance(error, DatabaseUnavailable), wait=wait)


class ReportWriter:
    """Receives the reports of one attempt (`read`) and writes them to the journal (`run`), in two threads."""

    def __init__(
        self,
        journal: Journal,
        store: BlobStore,
        claim: Claim,
        control: ProcessControl,
        track: Callable[[Metrics | Evaluated], None],
    ) -> None:
        """`track` receives every measurement at once; it must neither block nor raise."""
        self._journal = journal
        self._store = store
        self._prefix = f"jobs/{claim.job_id}/a{claim.attempt}/checkpoints"
        self._control = control
        self._track = track
        self._method = str(claim.spec.method)
        self._reports: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        # Buffer while Postgres is unavailable. The fence limits its size: it ends the trainer.
        self._pending: list[JournalEntry] = []
        self._flush_at = 0.0
        self._stored: set[int] = set()
        self._outcome = TrainerOutcome()

    def read(self, child: ChildProcess) -> None:
        """Read all lines of the child, whatever the journal does: a full pipe would block the trainer."""
        try:
            for line in child.lines():
                try:
                    self._reports.put(report_adapter.validate_json(line))
                except ValidationError as error:
                    log.warning(
                        "trainer.bad_line",
                        line=line[:200].decode(errors="replace"),
                        errors=error.error_count(),
                    )
        finally:
            self._reports.put(None)

    def run(self) -> TrainerOutcome:
        """Write reports until the trainer has ended and all of them are written. Raises `LostLease`."""
        while True:
            timeout = max(0.0, self._flush_at - time.monotonic()) if self._pending else None
            try:
                report = self._reports.get(timeout=timeout)
            except queue.Empty:
                self._flush()
                continue
            if report is None:
                break
            self._handle(report)
        retry_until_available(self._control, self._write)
        return self._outcome

    def _handle(self, report: Report) -> None:
        if isinstance(report, Finished):
            self._outcome.finished = report
        elif isinstance(report, Failed):
            self._outcome.failed = report
        elif isinstance(report, CheckpointSaved):
            self._append(self._store_checkpoint(report))
        else:
            if isinstance(report, Metrics):
                self._count(report)
            if isinstance(report, Metrics | Evaluated):
                self._track(report)
            self._append(JournalEntry(report))

    def _count(self, report: Metrics) -> None:
        seconds, errors = report.values.get("step_time"), report.values.get("gft/grader_errors")
        if seconds is not None and seconds >= 0:
            STEP_SECONDS.labels(self._method).observe(seconds)
        if errors is not None and errors > 0:
            GRADER_ERRORS.inc(errors)

    def _append(self, entry: JournalEntry | None) -> None:
        if entry is None:
            return
        if not self._pending:
            self._flush_at = time.monotonic() + BATCH_SECONDS
        self._pending.append(entry)
        can_wait = isinstance(entry.report, Metrics | Groups | TeacherAnswers) and len(self._pending) < BATCH_ROWS
        if not can_wait or time.monotonic() >= self._flush_at:
            self._flush()

    def _flush(self) -> None:
        """Write the pending reports; keep them for the next attempt if the database is unavailable."""
        self._control.check()
        try:
            self._write()
        except DatabaseUnavailable:
            log.warning("journal.database_unavailable", spooled=len(self._pending))
            self._flush_at = time.monotonic() + RETRY_SECONDS

    def _write(self) -> None:
        for blob in self._journal.record(self._pending):
            self._store.discard(blob)
        self._pending.clear()

    def _store_checkpoint(self, report: CheckpointSaved) -> JournalEntry | None:
        """Copy a checkpoint to the store; if that fails, skip the checkpoint and warn: the job must not fail."""
        if report.step in self._stored:
            return None
        blob = f"{self._prefix}/step-{report.step:08d}"
        try:
            files = self._store.put_tree(blob, Path(report.path))
        except (OSError, StorageUnavailable) as error:
            log.warning("checkpoint.not_stored", step=report.step, error=str(error))
            self._store.discard(blob)
            return JournalEntry(
                Message(level="warn", message=f"The checkpoint at step {report.step} could not be stored: {error}")
            )
        self._stored.add(report.step)
        shutil.rmtree(report.path, ignore_errors=True)
        has_adapter = files.keys() >= set(ADAPTER_FILES)
        return JournalEntry(StoredCheckpoint(report.step, blob, report.metrics, has_adapter))
