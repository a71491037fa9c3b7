"""The table of exports."""

import builtins
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base


class ExportStatus(StrEnum):
    """A claim makes a queued export running; a crash makes it queued again."""

    queued = "queued"
    running = "running"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


UNFINISHED: Final = (ExportStatus.queued, ExportStatus.running)


class Export(Base):
    """An export of a model. Its status changes only through `lifecycle` and `claims`."""

    __tablename__ = "exports"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    """The project that ordered it, which may not be the model's owner."""
    model: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    format: Mapped[str] = mapped_column(String(32))
    options: Mapped[dict[str, Any]]
    """Options of the format, such as `quantization`. A request with the same model, format and options finds it."""
    status: Mapped[str] = mapped_column(String(16), default=ExportStatus.queued)
    attempts: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    """Claims so far; a claim that a drain or an outage ended is taken back."""
    claimed_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """Until then a worker holds a claim, or a queued export is not claimed (backoff); by the database's clock."""
    progress: Mapped[float] = mapped_column(Double, default=0.0, server_default=text("0"))
    stage: Mapped[str | None] = mapped_column(String(255))
    """What the worker does now, in words."""
    error: Mapped[dict[str, Any] | None]
    """`{"code", "message"}` of a failed export."""
    manifest: Mapped[dict[str, Any] | None]
    """`Manifest` as JSON of a succeeded export."""
    secret: Mapped[builtins.bytes | None] = mapped_column(LargeBinary)
    """Encrypted token of the hub to push to; removed when the export ends."""
    blob: Mapped[str | None] = mapped_column(String(255))
    """Key of the tar archive in the blob store; None for a push."""
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    started_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """From this time on the sweep removes a finished export."""

    __table_args__ = (
        CheckConstraint("status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="status"),
        CheckConstraint("(status IN ('queued', 'running')) = (finished_at IS NULL)", name="finished_iff_terminal"),
        CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error_iff_failed"),
        CheckConstraint("(status = 'succeeded') = (manifest IS NOT NULL)", name="manifest_iff_succeeded"),
        CheckConstraint(
            "(blob IS NULL) = (bytes IS NULL) AND (blob IS NULL) = (sha256 IS NULL)", name="blob_has_a_digest"
        ),
        Index("ix_exports_model", "model", "created_at", "id"),
        Index("ix_exports_project", "project_id"),
        Index("ix_exports_unfinished", "created_at", postgresql_where="status IN ('queued', 'running')"),
        Index("ix_exports_expiring", "expires_at", postgresql_where="expires_at IS NOT NULL"),
    )
