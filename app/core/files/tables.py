"""Files, what their validation found, and files that arrive in parts."""

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
    """OpenAI's vocabulary: clients wait until `processed` or `error`."""

    uploaded = "uploaded"
    processed = "processed"
    error = "error"


class File(Base):
    """A stored blob; `status` and `report` of a data file come from the validation task."""

    __tablename__ = "files"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    filename: Mapped[str] = mapped_column(String(255))
    """Display text; paths on disk are ids."""
    purpose: Mapped[str] = mapped_column(String(32))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    blob: Mapped[str] = mapped_column(String(255))
    """Key in the blob store."""
    status: Mapped[str] = mapped_column(String(16), default=FileStatus.uploaded)
    status_details: Mapped[str | None] = mapped_column(Text)
    report: Mapped[dict[str, Any] | None]
    """`FileReport` as JSON once validated."""
    rows_blob: Mapped[str | None] = mapped_column(String(255))
    """Key of the rows of a Parquet file as JSONL."""
    rows_sha256: Mapped[str | None] = mapped_column(String(64))
    prompts: Mapped["builtins.bytes | None"] = mapped_column(LargeBinary, deferred=True)
    """`PromptIndex` of a valid file, up to 12 MB; not loaded with the row."""
    claimed_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """A validation task works on it until then, by the database's clock."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """From then on the file is gone for clients; only jobs that were accepted before still read it."""

    __table_args__ = (
        CheckConstraint("status IN ('uploaded', 'processed', 'error')", name="status"),
        CheckConstraint("(rows_blob IS NULL) = (rows_sha256 IS NULL)", name="rows_have_a_digest"),
        Index("ix_files_expiring", "expires_at", postgresql_where="expires_at IS NOT NULL"),
        Index("ix_files_project_created", "project_id", "created_at", "id"),
        Index("ix_files_unvalidated", "created_at", postgresql_where="status = 'uploaded'"),
    )

    @property
    def rows(self) -> tuple[str, str]:
        """Blob and SHA-256 of the rows as JSONL: the file itself unless it was made of a Parquet file."""
        if self.rows_blob is not None and self.rows_sha256 is not None:
            return self.rows_blob, self.rows_sha256
        return self.blob, self.sha256

    @property
    def blobs(self) -> tuple[str, ...]:
        """All that goes when the file goes."""
        return (self.blob,) if self.rows_blob is None else (self.rows_blob, self.blob)


def not_expired() -> ColumnElement[bool]:
    """Whether a file is still there for clients, by the database's clock."""
    return or_(File.expires_at.is_(None), File.expires_at > func.now())


class UploadStatus(StrEnum):
    """OpenAI's vocabulary. Only a pending upload changes, and only once."""

    pending = "pending"
    completed = "completed"
    cancelled = "cancelled"
    expired = "expired"


class Upload(Base):
    """A file that arrives in parts; `completed` made a `File` of them."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    filename: Mapped[str] = mapped_column(String(255))
    purpose: Mapped[str] = mapped_column(String(32))
    bytes: Mapped[int] = mapped_column(BigInteger)
    """Size of the whole file, as announced."""
    file_seconds: Mapped[int | None] = mapped_column(Integer)
    """The file expires so long after it was made; None means never."""
    status: Mapped[str] = mapped_column(String(16), default=UploadStatus.pending)
    part_ids: Mapped[list[str] | None]
    """What a completed upload was made of, in order: the same request again gets the same answer."""
    file_id: Mapped[str | None] = mapped_column(String(64))
    is_swept: Mapped[bool] = mapped_column(Boolean, default=False, server_default=text("false"))
    """Whether the parts of an upload that is over are gone from the blob store."""
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
    """A stored piece of a pending upload."""

    __tablename__ = "upload_parts"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
