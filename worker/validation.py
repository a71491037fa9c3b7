"""Validates uploaded files, one at a time, each under a claim that is renewed while the work goes on."""

import time
from dataclasses import dataclass
from typing import Final

import structlog

from app.core.db import Database
from app.core.files import claims
from app.core.files.claims import FileClaim
from app.core.files.tables import FileStatus
from app.core.files.uploads import TRAINING_PURPOSE
from app.core.files.validation import FileReport, Progress, validate_file
from app.core.jobs.events import clean
from app.core.metrics import FILES_VALIDATED
from app.core.storage.blobs import BlobMissing, BlobStore

log = structlog.get_logger(__name__)

CLAIM_SECONDS: Final = 60.0
"""A worker that died holds a file no longer."""
RENEW_SECONDS: Final = 15.0


class _TakenOver(Exception):
    """Another worker validates the file now."""


class _Claim:
    """A claim that lives as long as `keep` is called often enough."""

    def __init__(self, database: Database, current: FileClaim) -> None:
        self._database = database
        self._renew_at = time.monotonic() + RENEW_SECONDS
        self.current = current

    def keep(self, _done: int, _total: int) -> None:
        """Renews when it is time to. Raises `_TakenOver`, and `DatabaseUnavailable`."""
        if time.monotonic() < self._renew_at:
            return
        with self._database.transaction() as session:
            renewed = claims.renew(session, self.current, CLAIM_SECONDS)
        if renewed is None:
            raise _TakenOver
        self.current = renewed
        self._renew_at = time.monotonic() + RENEW_SECONDS


@dataclass(frozen=True)
class _Verdict:
    status: FileStatus
    details: str | None
    report: FileReport | None


def validate_one(database: Database, store: BlobStore) -> bool:
    """Validates the oldest waiting file and stores its report; False when none waits."""
    with database.transaction() as session:
        claimed = claims.claim_next(session, CLAIM_SECONDS)
    if claimed is None:
        return False
    claim = _Claim(database, claimed)
    try:
        verdict = _validate(store, claimed, claim.keep)
    except _TakenOver:
        log.warning("file.taken_over", file=claimed.file_id)
        return True
    # Cleaned, because names of fields come from the file and jsonb takes no NUL.
    report = clean(verdict.report.model_dump(mode="json")) if verdict.report else None
    with database.transaction() as session:
        settled = claims.settle(session, claim.current, verdict.status, clean(verdict.details), report)
    if settled:
        FILES_VALIDATED.labels(str(verdict.status)).inc()
    log.info("file.validated", file=claimed.file_id, status=str(verdict.status), settled=settled)
    return True


def _validate(store: BlobStore, claim: FileClaim, progress: Progress) -> _Verdict:
    if claim.purpose != TRAINING_PURPOSE:
        return _Verdict(FileStatus.processed, None, None)
    try:
        with store.as_file(claim.blob, lambda: progress(0, 0)) as path:
            report = validate_file(path, progress=progress)
    except (OSError, BlobMissing) as error:
        log.warning("file.unreadable", file=claim.file_id, error=str(error))
        reason = error.strerror if isinstance(error, OSError) else "it is gone"
        details = f"The stored file could not be read ({reason}); upload it again."
        return _Verdict(FileStatus.error, details, None)
    return _Verdict(FileStatus.processed if report.valid else FileStatus.error, report.summary(), report)
