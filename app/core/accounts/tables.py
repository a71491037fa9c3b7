"""Projects, their API keys, and who did what."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    String,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base


class Project(Base):
    """What files, jobs and models belong to. The name never changes: it is part of the names of its models."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    archived_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """Since then its keys are refused; what it has stays."""
    max_requests_per_minute: Mapped[int | None] = mapped_column(Integer)
    """This and the other limits: None means the installation's default."""
    max_running_jobs: Mapped[int | None] = mapped_column(Integer)
    max_queued_jobs: Mapped[int | None] = mapped_column(Integer)
    max_stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    max_priority: Mapped[int | None] = mapped_column(Integer)
    max_gpu_hours: Mapped[int | None] = mapped_column(Integer)
    """In a calendar month."""
    strict_enums: Mapped[bool] = mapped_column(server_default=text("false"), default=False)
    """Answers keep to OpenAI's enums, for clients that check them."""

    __table_args__ = (
        CheckConstraint("max_requests_per_minute >= 1", name="max_requests_per_minute"),
        CheckConstraint("max_running_jobs >= 0", name="max_running_jobs"),
        CheckConstraint("max_gpu_hours >= 0", name="max_gpu_hours"),
        CheckConstraint("max_queued_jobs >= 0", name="max_queued_jobs"),
        CheckConstraint("max_stored_bytes >= 0", name="max_stored_bytes"),
        CheckConstraint("max_priority BETWEEN -100 AND 100", name="max_priority"),
    )


class ProjectUsage(Base):
    """What a project's attempts have used in a calendar month (UTC); added up as they end."""

    __tablename__ = "project_usage"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    month: Mapped[date] = mapped_column(Date, primary_key=True)
    """Its first day."""
    gpu_seconds: Mapped[float] = mapped_column(Double)
    """Of trainer processes, each of which has a GPU, or a CPU where there is none."""


class ApiKey(Base):
    """A bearer key; only the SHA-256 of its 32-character random secret is kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    """The eight characters in the key's own text."""
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(String(64))
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    last4: Mapped[str] = mapped_column(String(4))
    scopes: Mapped[list[str]]
    """What it was granted, wildcards as they are."""
    requests_per_minute: Mapped[int | None] = mapped_column(Integer)
    """A limit of its own below the project's."""
    created_by: Mapped[str | None] = mapped_column(String(16))
    """The key that made it; None for the one that the installation makes for itself."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_used_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """To the minute: a write for every request would cost more than it tells."""
    replaced_by: Mapped[str | None] = mapped_column(String(16))
    """The key that a rotation made of it."""
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    __table_args__ = (CheckConstraint("requests_per_minute >= 1", name="requests_per_minute"),)


class BrowserSession(Base):
    """A browser that is signed in on behalf of a key, or a link that can be traded for that, once."""

    __tablename__ = "browser_sessions"

    token_hash: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    """SHA-256 of what the browser holds."""
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    is_link: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)


class OidcTrust(Base):
    """A repository whose CI system's tokens are traded for keys of a project."""

    __tablename__ = "oidc_trusts"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(64))
    provider: Mapped[str] = mapped_column(String(16))
    issuer: Mapped[str] = mapped_column(String(255))
    audience: Mapped[str] = mapped_column(String(255))
    repository_id: Mapped[str] = mapped_column(String(32))
    """The provider's number: names can be given to others."""
    ref: Mapped[str | None] = mapped_column(String(255))
    """None means every branch and tag."""
    scopes: Mapped[list[str]]
    key_seconds: Mapped[int] = mapped_column(Integer)
    """How long a key of it lives."""
    created_by: Mapped[str | None] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    __table_args__ = (
        CheckConstraint("provider IN ('github', 'gitlab')", name="provider"),
        CheckConstraint("key_seconds >= 60", name="key_seconds"),
        Index("uq_oidc_trusts_claims", "issuer", "repository_id", "audience", text("coalesce(ref, '')"), unique=True),
    )


class OidcToken(Base):
    """A token that was traded, until it expires: none is traded twice."""

    __tablename__ = "oidc_tokens"

    issuer: Mapped[str] = mapped_column(String(255), primary_key=True)
    jti: Mapped[str] = mapped_column(String(255), primary_key=True)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)


class AuditEntry(Base):
    """Who changed what. A trigger refuses every UPDATE and DELETE; no foreign keys, so nothing can require one."""

    __tablename__ = "audit_log"

    seq: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    action: Mapped[str] = mapped_column(String(32))
    """`job.cancel`: the kind of object and what was done to it."""
    object_id: Mapped[str] = mapped_column(String(255))
    project_id: Mapped[str] = mapped_column(String(64))
    """The project of the object."""
    actor_key_id: Mapped[str | None] = mapped_column(String(16))
    """None for the installation itself."""
    actor_project_id: Mapped[str] = mapped_column(String(64))
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]
    ip: Mapped[str | None] = mapped_column(String(64))
    request_id: Mapped[str | None] = mapped_column(String(64))

    __table_args__ = (
        Index("ix_audit_log_project", "project_id", "seq"),
        Index("ix_audit_log_object", "object_id", "seq"),
    )


class IdempotentRequest(Base):
    """A request that takes effect once: with a key of the client's, or as its SDK counts its retries."""

    __tablename__ = "idempotency_keys"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    key: Mapped[str | None] = mapped_column(String(255))
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary(32))
    """SHA-256 of path, query and body."""
    attempt: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """The latest retry that was recognised as this request."""
    status: Mapped[int | None] = mapped_column(Integer)
    """Of the answer; None while the request runs."""
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The answer; None where it held a secret."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    __table_args__ = (
        Index("uq_idempotency_keys_key", "api_key_id", "key", unique=True, postgresql_where="key IS NOT NULL"),
        Index("ix_idempotency_keys_retries", "api_key_id", "fingerprint", postgresql_where="key IS NULL"),
        Index("ix_idempotency_keys_created_at", "created_at"),
    )
