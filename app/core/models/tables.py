"""Tables of trained adapters, of the permissions to use them, of their aliases, and of downloads of base models."""

from datetime import datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base


class TrainedModel(Base):
    """The adapter published by a succeeded job, or a checkpoint of a job."""

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(String(255), primary_key=True)
    """`ft:<base>:<project>:<suffix>:<8 characters>`; a checkpoint's id also ends with `:ckpt-step-<n>`."""
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    step: Mapped[int | None] = mapped_column(Integer)
    """Step of a checkpoint; None for the published adapter."""
    base_model: Mapped[str] = mapped_column(String(255))
    blob: Mapped[str] = mapped_column(String(255))
    """Key prefix of the adapter's files in the blob store."""
    has_adapter: Mapped[bool] = mapped_column(Boolean, default=True, server_default=text("true"))
    """Whether the files include the adapter in PEFT's format. A checkpoint may hold only the trainer's state."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    __table_args__ = (Index("ix_models_job_step", "job_id", "step"),)


class CheckpointPermission(Base):
    """Permission for another project to use a model."""

    __tablename__ = "checkpoint_permissions"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    """The other project."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    __table_args__ = (UniqueConstraint("model", "project_id"),)


class ModelAlias(Base):
    """A project's name for one of its models, such as `prod`. It can be moved to another model."""

    __tablename__ = "model_aliases"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    moved_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class PullStatus(StrEnum):
    """The state of the download of a base model."""

    queued = "queued"
    running = "running"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


UNFINISHED: Final = (PullStatus.queued, PullStatus.running)


class ModelPull(Base):
    """The last download of a base model, ordered by a client. Base models belong to the installation."""

    __tablename__ = "model_pulls"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    """The base model's name on this server."""
    hub_id: Mapped[str] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    stage: Mapped[str | None] = mapped_column(String(255))
    done_bytes: Mapped[int | None] = mapped_column(BigInteger)
    total_bytes: Mapped[int | None] = mapped_column(BigInteger)
    error: Mapped[str | None] = mapped_column(Text)
    claimed_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """A worker downloads the model until this time at least; it identifies the worker's claim."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    started_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    __table_args__ = (
        CheckConstraint("status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="status"),
        CheckConstraint("(status IN ('queued', 'running')) = (finished_at IS NULL)", name="finished_iff_terminal"),
        CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error_iff_failed"),
    )
