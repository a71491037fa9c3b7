"""Claims on files to validate. Another worker can take over a claim that has expired."""

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, func, select, text, update
from sqlalchemy.orm import Session

from app.core.files.tables import File, FileStatus

_CLAIM: Final = text(
    """
    UPDATE files SET claimed_until = now() + make_interval(secs => :seconds)
    WHERE id = (
        SELECT id FROM files
        WHERE status = 'uploaded' AND (claimed_until IS NULL OR claimed_until < now())
        ORDER BY created_at, id
        FOR UPDATE SKIP LOCKED
        LIMIT 1
    )
    RETURNING id, blob, purpose, claimed_until
    """
)


@dataclass(frozen=True)
class FileClaim:
    """A claim on one file to validate. `until` identifies the claim: each renewal or takeover changes it."""

    file_id: str
    blob: str
    purpose: str
    until: datetime


@dataclass(frozen=True)
class ValidationResult:
    """The result of a file's validation, as columns of its row."""

    status: FileStatus
    details: str | None = None
    report: dict[str, Any] | None = None
    prompts: bytes | None = None
    rows_blob: str | None = None
    rows_sha256: str | None = None


def any_waiting(session: Session) -> bool:
    """Return whether a file needs validation and no worker holds a claim on it."""
    free = (File.claimed_until.is_(None)) | (File.claimed_until < func.now())
    waiting = select(File.id).where(File.status == FileStatus.uploaded, free)
    return session.scalar(select(waiting.exists())) is True


def claim_next(session: Session, seconds: float) -> FileClaim | None:
    """Claim the oldest unclaimed file for `seconds`, by the database's clock. Returns None if no file is waiting."""
    row = session.execute(_CLAIM, {"seconds": seconds}).one_or_none()
    return None if row is None else FileClaim(row.id, row.blob, row.purpose, row.claimed_until)


def renew(session: Session, claim: FileClaim, seconds: float) -> FileClaim | None:
    """Extend the claim to `seconds` from now. Returns None if another worker took over."""
    until = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    renewed = session.scalar(
        update(File).where(*_held(claim)).values(claimed_until=until).returning(File.claimed_until),
        execution_options={"synchronize_session": False},
    )
    return None if renewed is None else replace(claim, until=renewed)


def _held(claim: FileClaim) -> tuple[ColumnElement[bool], ...]:
    return File.id == claim.file_id, File.status == FileStatus.uploaded, File.claimed_until == claim.until


def settle(session: Session, claim: FileClaim, result: ValidationResult) -> bool:
    """Store the result. Returns False, without any change, if another worker took over."""
    columns = asdict(result)
    columns["status_details"] = columns.pop("details")
    settled = session.execute(
        update(File).where(*_held(claim)).values(**columns, claimed_until=None).returning(File.id),
        execution_options={"synchronize_session": False},
    )
    return settled.one_or_none() is not None
