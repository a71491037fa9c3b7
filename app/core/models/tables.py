"""Tables of trained adapters, of the permissions to use them, and of their aliases."""

from datetime import datetime

from sqlalchemy import Boolean, DateTime, ForeignKey, Index, Integer, String, UniqueConstraint, func, text
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
