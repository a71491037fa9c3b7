"""Tables of files, their validation results, and chunked uploads."""

import builtins
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    ColumnElement,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    func,
    or_,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base


class FileStatus(StrEnum):
    """OpenAI's vocabulary: clients poll until `processed` or `error`."""

    uploaded = "uploaded"
    processed = "processed"
    error = "error"


class File(Base):
    """A stored blob. The validation task sets the `status` and `report` of a data file."""

    __tablename__ = "files"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    filename: Mapped[str] = mapped_column(String(255))
    """For display only; blob keys use the id."""
    purpose: Mapped[str] = mapped_column(String(32))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    blob: Mapped[str] = mapped_column(String(255))
    """Key in the blob store."""
    status: Mapped[str] = mapped_column(String(16), default=FileStatus.uploaded)
    status_details: Mapped[str | None] = mapped_column(Text)
    report: Mapped[dict[str, Any] | None]
    """`FileReport` as JSON, once validated."""
    rows_blob: Mapped[str | None] = mapped_column(String(255))
    """Blob key of a Parquet file's rows as JSONL."""
    rows_sha256: Mapped[str | None] = mapped_column(String(64))
    prompts: Mapped["builtins.bytes | None"] = mapped_column(LargeBinary, deferred=True)
    """`PromptIndex` of a valid file, up to 12 MB; not loaded with the row."""
    claimed_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """Deadline of the validation task that holds the claim, by the database's clock."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """From this time on clients no longer see the file. Only jobs accepted earlier still read it."""

    __table_args__ = (
        CheckConstraint("status IN ('uploaded', 'processed', 'error')", name="status"),
        CheckConstraint("(rows_blob IS NULL) = (rows_sha256 IS NULL)", name="rows_have_a_digest"),
        Index("ix_files_expiring", "expires_at", postgresql_where="expires_at IS NOT NULL"),
        Index("ix_files_project_created", "project_id", "created_at", "id"),
        Index("ix_files_project_sha256", "project_id", "sha256"),
        Index("ix_files_unvalidated", "created_at", postgresql_where="status = 'uploaded'"),
    )

    @property
    def rows(self) -> tuple[str, str]:
        """Blob and SHA-256 of the rows as JSONL: the file itself, unless it was converted from Parquet."""
        if self.rows_blob is not None and self.rows_sha256 is not None:
            return self.rows_blob, self.rows_sha256
        return self.blob, self.sha256

    @property
    def blobs(self) -> tuple[str, ...]:
        """Keys of all blobs to delete with the file."""
        return (self.blob,) if self.rows_blob is None else (self.rows_blob, self.blob)


def not_expired() -> ColumnElement[bool]:
    """Return the condition that clients still see a file, by the database's clock."""
    return or_(File.expires_at.is_(None), File.expires_at > func.now())


class UploadStatus(StrEnum):
    """OpenAI's vocabulary. Only a pending upload changes its status, and only once."""

    pending = "pending"
    completed = "completed"
    cancelled = "cancelled"
    expired = "expired"


class Upload(Base):
    """A file that arrives in parts; a completed upload has a `File`."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    filename: Mapped[str] = mapped_column(String(255))
    purpose: Mapped[str] = mapped_column(String(32))
    bytes: Mapped[int] = mapped_column(BigInteger)
    """Size of the whole file, as the client announced it."""
    file_seconds: Mapped[int | None] = mapped_column(Integer)
    """Lifetime of the file from its creation; None means forever."""
    status: Mapped[str] = mapped_column(String(16), default=UploadStatus.pending)
    part_ids: Mapped[list[str] | None]
    """Parts of a completed upload, in order. A repeated request with the same parts gets the same response."""
    file_id: Mapped[str | None] = mapped_column(String(64))
    is_swept: Mapped[bool] = mapped_column(Boolean, default=False, server_default=text("false"))
    """Whether the parts of a finished upload are deleted from the blob store."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))

    __table_args__ = (
        CheckConstraint("status IN ('pending', 'completed', 'cancelled', 'expired')", name="status"),
        CheckConstraint("(status = 'completed') = (file_id IS NOT NULL)", name="file_iff_completed"),
        CheckConstraint("(status = 'completed') = (part_ids IS NOT NULL)", name="parts_iff_completed"),
        Index("ix_uploads_pending", "expires_at", postgresql_where="status = 'pending'"),
        Index("ix_uploads_unswept", "id", postgresql_where="status <> 'pending' AND NOT is_swept"),
    )


class UploadPart(Base):
    """A stored part of a pending upload."""

    __tablename__ = "upload_parts"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
