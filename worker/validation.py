"""Validates uploaded files, one at a time, each under a claim."""

from dataclasses import dataclass
from typing import Final

import structlog

from app.core.db import Database
from app.core.files import claims
from app.core.files.claims import FileClaim
from app.core.files.tables import FileStatus
from app.core.files.validation import FileReport, validate_file
from app.core.jobs.checks import PURPOSE
from app.core.jobs.events import clean
from app.core.storage.local import LocalBlobStore

log = structlog.get_logger(__name__)

CLAIM_SECONDS: Final = 900
"""More than the largest file takes; a worker that died holds a file no longer."""


@dataclass(frozen=True)
class _Verdict:
    status: FileStatus
    details: str | None
    report: FileReport | None


def validate_one(database: Database, store: LocalBlobStore) -> bool:
    """Validates the oldest waiting file and stores its report; False when none waits."""
    with database.transaction() as session:
        claim = claims.claim_next(session, CLAIM_SECONDS)
    if claim is None:
        return False
    verdict = _validate(store, claim)
    # Cleaned, because names of fields come from the file and jsonb takes no NUL.
    report = clean(verdict.report.model_dump(mode="json")) if verdict.report else None
    with database.transaction() as session:
        settled = claims.settle(session, claim, verdict.status, clean(verdict.details), report)
    log.info("file.validated", file=claim.file_id, status=str(verdict.status), settled=settled)
    return True


def _validate(store: LocalBlobStore, claim: FileClaim) -> _Verdict:
    if claim.purpose != PURPOSE:
        return _Verdict(FileStatus.processed, None, None)
    try:
        report = validate_file(store.path(claim.blob))
    except OSError as error:
        log.warning("file.unreadable", file=claim.file_id, error=str(error))
        details = f"The stored file could not be read ({error.strerror}); upload it again."
        return _Verdict(FileStatus.error, details, None)
    return _Verdict(FileStatus.processed if report.valid else FileStatus.error, report.summary(), report)
