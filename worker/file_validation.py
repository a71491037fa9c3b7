"""Validates uploaded files, one at a time, each under a claim that is renewed during the work.

A subprocess with limits and without credentials reads the file, so that no content can take the worker down.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

import structlog

from app.core.db import Database
from app.core.files import validation_claims
from app.core.files.tables import FileStatus
from app.core.files.uploads import TRAINING_PURPOSE
from app.core.files.validation_claims import FileClaim, ValidationResult
from app.core.files.validation_report import FileReport
from app.core.jobs.events import clean
from app.core.prometheus import FILES_VALIDATED
from app.core.scratch import scratch_directory
from app.core.storage.blobs import BlobMissing, BlobStore, StoredBlob, read
from worker import limited_process
from worker.claim_keeper import CLAIM_SECONDS, ClaimKeeper, TakenOver
from worker.file_validation_process import PROMPTS, ROWS
from worker.limited_process import ProcessLimits, Stopped

log = structlog.get_logger(__name__)

DEFAULT_LIMITS: Final = ProcessLimits()
_Claim = ClaimKeeper[FileClaim]


@dataclass(frozen=True)
class _Verdict:
    status: FileStatus
    details: str | None
    report: FileReport | None = None
    prompts: bytes | None = None
    rows: tuple[str, StoredBlob] | None = None
    """Blob with the rows of a Parquet file, as JSONL."""


def validate_one(database: Database, store: BlobStore, limits: ProcessLimits = DEFAULT_LIMITS) -> bool:
    """Validate the oldest file that needs it and store the report; return False if there is none."""
    with database.transaction() as session:
        claimed = validation_claims.claim_next(session, CLAIM_SECONDS)
    if claimed is None:
        return False

    def renew(held: FileClaim) -> FileClaim | None:
        with database.transaction() as session:
            return validation_claims.renew(session, held, CLAIM_SECONDS)

    claim = ClaimKeeper(claimed, renew)
    try:
        verdict = _validate(store, claim, limits)
    except TakenOver:
        log.warning("file.taken_over", file=claimed.file_id)
        return True
    if _settle(database, claim.current, verdict):
        FILES_VALIDATED.labels(str(verdict.status)).inc()
    elif verdict.rows is not None:
        store.discard(verdict.rows[0])
    return True


def _settle(database: Database, claim: FileClaim, verdict: _Verdict) -> bool:
    # Field names in the report come from the file, and jsonb does not accept NUL.
    report = clean(verdict.report.model_dump(mode="json")) if verdict.report else None
    blob, stored = verdict.rows or (None, None)
    result = ValidationResult(
        verdict.status,
        clean(verdict.details),
        report,
        verdict.prompts,
        rows_blob=blob,
        rows_sha256=None if stored is None else stored.sha256,
    )
    with database.transaction() as session:
        settled = validation_claims.settle(session, claim, result)
    log.info("file.validated", file=claim.file_id, status=str(verdict.status), settled=settled)
    return settled


def _validate(store: BlobStore, claim: _Claim, limits: ProcessLimits) -> _Verdict:
    file_id, blob = claim.current.file_id, claim.current.blob
    if claim.current.purpose != TRAINING_PURPOSE:
        return _Verdict(FileStatus.processed, None)
    with scratch_directory("validation") as directory:
        try:
            with store.as_file(blob, claim.keep) as path:
                report = _run(path, directory, claim, limits)
            if not report.valid:
                return _Verdict(FileStatus.error, report.summary(), report)
            rows = _store_rows(store, directory / ROWS, f"{blob}-rows-{uuid4().hex[:8]}", claim)
        except (OSError, BlobMissing) as error:
            log.warning("file.unreadable", file=file_id, error=str(error))
            reason = error.strerror if isinstance(error, OSError) else "it no longer exists"
            return _Verdict(FileStatus.error, f"The stored file could not be read ({reason}); upload it again.")
        except Stopped as stopped:
            return _Verdict(FileStatus.error, f"The validation {stopped}. Upload the rows as JSONL, or split the file.")
        return _Verdict(FileStatus.processed, report.summary(), report, (directory / PROMPTS).read_bytes(), rows)


def _store_rows(store: BlobStore, rows: Path, blob: str, claim: _Claim) -> tuple[str, StoredBlob] | None:
    if not rows.is_file():
        return None

    def chunks() -> Iterator[bytes]:
        for chunk in read(rows):
            claim.keep()
            yield chunk

    return blob, store.write(blob, chunks())


def _run(path: Path, directory: Path, claim: _Claim, limits: ProcessLimits) -> FileReport:
    """Run the subprocess and return its report. Raises `Stopped` and `TakenOver`."""
    process = "worker.file_validation_process"
    answer = limited_process.run(process, (str(path), str(directory)), directory / "log", claim.keep, limits)
    return FileReport.model_validate(answer["report"])
