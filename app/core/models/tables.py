"""Trained adapters that a project owns."""

from datetime import datetime

from sqlalchemy import DateTime, ForeignKey, String, func
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base


class TrainedModel(Base):
    """The adapter that a succeeded job published."""

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(String(255), primary_key=True)
    """`ft:<base>:<project>:<suffix>:<8 characters>`"""
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    base_model: Mapped[str] = mapped_column(String(255))
    blob: Mapped[str] = mapped_column(String(255))
    """Key prefix of the adapter's files in the blob store."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
