"""Uploaded files and what their validation found."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, DateTime, ForeignKey, Index, String, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base


class FileStatus(StrEnum):
    """OpenAI's vocabulary: clients wait until `processed` or `error`."""

    uploaded = "uploaded"
    processed = "processed"
    error = "error"


class File(Base):
    """A stored blob; `status` and `report` come from the validation task."""

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
    claimed_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """A validation task works on it until then, by the database's clock."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    __table_args__ = (
        CheckConstraint("status IN ('uploaded', 'processed', 'error')", name="status"),
        Index("ix_files_project_created", "project_id", "created_at", "id"),
        Index("ix_files_unvalidated", "created_at", postgresql_where="status = 'uploaded'"),
    )
