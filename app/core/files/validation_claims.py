"""Who validates which file: a claim that another worker may take over once it is old."""

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
    """One file to validate; `until` tells this claim from any other."""

    file_id: str
    blob: str
    purpose: str
    until: datetime


@dataclass(frozen=True)
class ValidationResult:
    """What a validation found."""

    status: FileStatus
    details: str | None = None
    report: dict[str, Any] | None = None
    prompts: bytes | None = None
    rows_blob: str | None = None
    rows_sha256: str | None = None


def any_waiting(session: Session) -> bool:
    """Whether a file waits that nobody works on."""
    free = (File.claimed_until.is_(None)) | (File.claimed_until < func.now())
    waiting = select(File.id).where(File.status == FileStatus.uploaded, free)
    return session.scalar(select(waiting.exists())) is True


def claim_next(session: Session, seconds: float) -> FileClaim | None:
    """Takes the oldest waiting file for so long, by the database's clock; None when none waits."""
    row = session.execute(_CLAIM, {"seconds": seconds}).one_or_none()
    return None if row is None else FileClaim(row.id, row.blob, row.purpose, row.claimed_until)


def renew(session: Session, claim: FileClaim, seconds: float) -> FileClaim | None:
    """The claim for so long from now on; None when another worker took over meanwhile."""
    until = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    renewed = session.scalar(
        update(File).where(*_held(claim)).values(claimed_until=until).returning(File.claimed_until),
        execution_options={"synchronize_session": False},
    )
    return None if renewed is None else replace(claim, until=renewed)


def _held(claim: FileClaim) -> tuple[ColumnElement[bool], ...]:
    return File.id == claim.file_id, File.status == FileStatus.uploaded, File.claimed_until == claim.until


def settle(session: Session, claim: FileClaim, result: ValidationResult) -> bool:
    """Stores what the validation found; False, and no change, when another worker took over meanwhile."""
    columns = asdict(result)
    columns["status_details"] = columns.pop("details")
    settled = session.execute(
        update(File).where(*_held(claim)).values(**columns, claimed_until=None).returning(File.id),
        execution_options={"synchronize_session": False},
    )
    return settled.one_or_none() is not None
