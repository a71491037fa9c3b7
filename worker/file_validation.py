"""Validates uploaded files, one at a time, each under a claim that is renewed during the work.

A subprocess with limits and without credentials reads the file, so that no content can take the worker down.
"""

import json
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
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
from app.core.storage.blobs import BlobMissing, BlobStore, StoredBlob, read
from worker.child_process import ChildProcess, describe_exit, log_tail
from worker.file_validation_process import PROMPTS, ROWS

log = structlog.get_logger(__name__)

CLAIM_SECONDS: Final = 60.0
"""A file of a dead worker can be claimed again after this time."""
RENEW_SECONDS: Final = 15.0
_TICK_SECONDS: Final = 1.0


@dataclass(frozen=True)
class ValidationLimits:
    """Limits of the subprocess that reads a file."""

    seconds: int = 1800
    """Limit of its CPU time, and of its wall-clock time."""
    silent_seconds: float = 120.0
    """Longest time without a progress report."""
    memory_bytes: int = 2 << 30
    """Address space, including libraries."""


DEFAULT_LIMITS: Final = ValidationLimits()


class _TakenOver(Exception):
    """Another worker has claimed the file."""


class _Claim:
    """A claim that lasts as long as `keep` is called often enough."""

    def __init__(self, database: Database, current: FileClaim) -> None:
        self._database = database
        self._renew_at = time.monotonic() + RENEW_SECONDS
        self.current = current

    def keep(self) -> None:
        """Renew the claim when it is due. Raises `_TakenOver` and `DatabaseUnavailable`."""
        if time.monotonic() < self._renew_at:
            return
        with self._database.transaction() as session:
            renewed = validation_claims.renew(session, self.current, CLAIM_SECONDS)
        if renewed is None:
            raise _TakenOver
        self.current = renewed
        self._renew_at = time.monotonic() + RENEW_SECONDS


@dataclass(frozen=True)
class _Verdict:
    status: FileStatus
    details: str | None
    report: FileReport | None = None
    prompts: bytes | None = None
    rows: tuple[str, StoredBlob] | None = None
    """Blob with the rows of a Parquet file, as JSONL."""


class _Stopped(Exception):
    """The subprocess ended without a result. The message is for the file's owner."""


def validate_one(database: Database, store: BlobStore, limits: ValidationLimits = DEFAULT_LIMITS) -> bool:
    """Validate the oldest file that needs it and store the report; return False if there is none."""
    with database.transaction() as session:
        claimed = validation_claims.claim_next(session, CLAIM_SECONDS)
    if claimed is None:
        return False
    claim = _Claim(database, claimed)
    try:
        verdict = _validate(store, claim, limits)
    except _TakenOver:
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


def _validate(store: BlobStore, claim: _Claim, limits: ValidationLimits) -> _Verdict:
    file_id, blob = claim.current.file_id, claim.current.blob
    if claim.current.purpose != TRAINING_PURPOSE:
        return _Verdict(FileStatus.processed, None)
    with tempfile.TemporaryDirectory(prefix="grouptune-validation-") as name:
        directory = Path(name)
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
        except _Stopped as stopped:
            return _Verdict(FileStatus.error, str(stopped))
        return _Verdict(FileStatus.processed, report.summary(), report, (directory / PROMPTS).read_bytes(), rows)


def _store_rows(store: BlobStore, rows: Path, blob: str, claim: _Claim) -> tuple[str, StoredBlob] | None:
    if not rows.is_file():
        return None

    def chunks() -> Iterator[bytes]:
        for chunk in read(rows):
            claim.keep()
            yield chunk

    return blob, store.write(blob, chunks())


def _run(path: Path, directory: Path, claim: _Claim, limits: ValidationLimits) -> FileReport:
    """Run the subprocess and return its report. Raises `_Stopped` and `_TakenOver`."""
    words = (str(path), str(directory), str(limits.seconds), str(limits.memory_bytes))
    child = ChildProcess([sys.executable, "-m", "worker.file_validation_process", *words], directory / "log")
    try:
        answer = _answer(child, claim, limits)
    finally:
        child.kill()
        code = child.wait()
    if answer is not None and "report" in answer:
        return FileReport.model_validate(answer["report"])
    memory = f"{limits.memory_bytes / 1e9:.1f} GB of memory"
    if answer is not None:
        raise _Stopped(
            f"The validation needed more than {memory} and was stopped; upload the rows as JSONL, or split the file."
        )
    log.error("file.validation_died", file=claim.current.file_id, code=code, tail=log_tail(directory / "log"))
    raise _Stopped(
        f"The process that read the file {describe_exit(code)}; it may use {memory} and {limits.seconds:,} s. Upload "
        "the rows as JSONL, or split the file."
    )


def _answer(child: ChildProcess, claim: _Claim, limits: ValidationLimits) -> dict[str, Any] | None:
    """Return the last message of the subprocess, None if it ends without one. Raises `_Stopped` past the limits."""
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_forward, args=(child, lines), daemon=True).start()
    ends_at = time.monotonic() + limits.seconds
    silent_at = time.monotonic() + limits.silent_seconds
    while True:
        claim.keep()
        try:
            line = lines.get(timeout=_TICK_SECONDS)
        except queue.Empty:
            _check_time(ends_at, silent_at, limits)
            continue
        if line is None:
            return None
        message: dict[str, Any] = json.loads(line)
        if "done" not in message:
            return message
        silent_at = time.monotonic() + limits.silent_seconds
        _check_time(ends_at, silent_at, limits)


def _check_time(ends_at: float, silent_at: float, limits: ValidationLimits) -> None:
    now = time.monotonic()
    if now > ends_at:
        raise _Stopped(f"The validation took longer than {limits.seconds:,} s and was stopped; split the file.")
    if now > silent_at:
        raise _Stopped(
            f"The validation made no progress for {limits.silent_seconds:g} s and was stopped; upload the rows as "
            "JSONL, or split the file."
        )


def _forward(child: ChildProcess, lines: "queue.SimpleQueue[bytes | None]") -> None:
    for line in child.lines():
        lines.put(line)
    lines.put(None)
