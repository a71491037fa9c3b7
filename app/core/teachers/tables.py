"""Keys for teachers, and cached teacher answers."""

from datetime import datetime

from sqlalchemy import Boolean, DateTime, ForeignKey, Index, Integer, LargeBinary, String, Text, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base


class TeacherKey(Base):
    """A project's API key for the servers of one origin."""

    __tablename__ = "teacher_keys"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    origin: Mapped[str] = mapped_column(String(512))
    """`https://host:port`, without the scheme's default port. The key is sent to this origin only."""
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    """Encrypted with the installation's key ring."""
    hint: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    __table_args__ = (UniqueConstraint("project_id", "origin"),)


class StoredTeacherAnswer(Base):
    """A cached teacher answer. A job of the project that repeats the question gets it without a request."""

    __tablename__ = "teacher_answers"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    """SHA-256 of the question and the answer's number."""
    content: Mapped[str] = mapped_column(Text)
    finished: Mapped[bool] = mapped_column(Boolean)
    model: Mapped[str] = mapped_column(String(256))
    provider: Mapped[str] = mapped_column(String(255))
    prompt_tokens: Mapped[int] = mapped_column(Integer)
    completion_tokens: Mapped[int] = mapped_column(Integer)
    answered_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    used_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    """When an attempt last fetched it."""

    __table_args__ = (Index("ix_teacher_answers_used", "used_at"),)
