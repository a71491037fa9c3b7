"""Tables of projects, API keys, browser sessions, OIDC trusts, the audit log and idempotency records."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
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
    false,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base


class Project(Base):
    """The owner of files, jobs and models. The name never changes, because model names contain it."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    archived_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """Since this time its keys are refused. Its data is kept."""
    max_requests_per_minute: Mapped[int | None] = mapped_column(Integer)
    """As for all limits, None means the installation's default."""
    max_running_jobs: Mapped[int | None] = mapped_column(Integer)
    max_queued_jobs: Mapped[int | None] = mapped_column(Integer)
    max_stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    max_priority: Mapped[int | None] = mapped_column(Integer)
    max_gpu_hours: Mapped[int | None] = mapped_column(Integer)
    """Per calendar month."""
    max_inference_requests: Mapped[int | None] = mapped_column(Integer)
    """In flight at once."""
    strict_enums: Mapped[bool] = mapped_column(server_default=text("false"), default=False)
    """Whether responses keep to OpenAI's enums, for clients that validate them."""

    __table_args__ = (
        CheckConstraint("max_requests_per_minute >= 1", name="max_requests_per_minute"),
        CheckConstraint("max_running_jobs >= 0", name="max_running_jobs"),
        CheckConstraint("max_gpu_hours >= 0", name="max_gpu_hours"),
        CheckConstraint("max_inference_requests >= 0", name="max_inference_requests"),
        CheckConstraint("max_queued_jobs >= 0", name="max_queued_jobs"),
        CheckConstraint("max_stored_bytes >= 0", name="max_stored_bytes"),
        CheckConstraint("max_priority BETWEEN -100 AND 100", name="max_priority"),
    )


class ProjectUsage(Base):
    """Usage of a project's attempts in a calendar month (UTC), added when an attempt ends."""

    __tablename__ = "project_usage"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    month: Mapped[date] = mapped_column(Date, primary_key=True)
    """First day of the month."""
    gpu_seconds: Mapped[float] = mapped_column(Double)
    """Seconds of trainer processes. Each uses one GPU, or the CPU on a machine without one."""


class ApiKey(Base):
    """An API key. Only the SHA-256 of its random secret of 32 characters is stored."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    """The eight characters after `gt_live_` in the key's text."""
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(String(64))
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    last4: Mapped[str] = mapped_column(String(4))
    scopes: Mapped[list[str]]
    """The grants as given, wildcards not expanded."""
    requests_per_minute: Mapped[int | None] = mapped_column(Integer)
    """The key's own limit, in addition to the project's."""
    created_by: Mapped[str | None] = mapped_column(String(16))
    """Id of the key that created it; None for the installation's own key."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    last_used_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """Exact to the minute: writing it for every request would cost too much."""
    replaced_by: Mapped[str | None] = mapped_column(String(16))
    """The successor created by a rotation."""
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    __table_args__ = (CheckConstraint("requests_per_minute >= 1", name="requests_per_minute"),)


class BrowserSession(Base):
    """A browser session that acts for an API key, or a sign-in link that can be redeemed for one session."""

    __tablename__ = "browser_sessions"

    token_hash: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    """SHA-256 of the token that the browser holds."""
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    is_link: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)


class OidcTrust(Base):
    """A repository whose CI tokens can be exchanged for keys of a project."""

    __tablename__ = "oidc_trusts"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(64))
    provider: Mapped[str] = mapped_column(String(16))
    issuer: Mapped[str] = mapped_column(String(255))
    audience: Mapped[str] = mapped_column(String(255))
    repository_id: Mapped[str] = mapped_column(String(32))
    """The provider's numeric id, because a deleted repository's name can be taken by another owner."""
    ref: Mapped[str | None] = mapped_column(String(255))
    """None accepts every branch and tag."""
    scopes: Mapped[list[str]]
    key_seconds: Mapped[int] = mapped_column(Integer)
    """Lifetime of the keys it issues."""
    created_by: Mapped[str | None] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    __table_args__ = (
        CheckConstraint("provider IN ('github', 'gitlab')", name="provider"),
        CheckConstraint("key_seconds >= 60", name="key_seconds"),
        Index("uq_oidc_trusts_claims", "issuer", "repository_id", "audience", text("coalesce(ref, '')"), unique=True),
    )


class OidcToken(Base):
    """A token that was exchanged, kept until it expires so that it cannot be exchanged again."""

    __tablename__ = "oidc_tokens"

    issuer: Mapped[str] = mapped_column(String(255), primary_key=True)
    jti: Mapped[str] = mapped_column(String(255), primary_key=True)
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)


class AuditEntry(Base):
    """An entry of the audit log. A trigger refuses UPDATE and DELETE, so no foreign key may require either."""

    __tablename__ = "audit_log"

    seq: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    action: Mapped[str] = mapped_column(String(32))
    """Kind of object and action, such as `job.cancel`."""
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
    """The record of a request that takes effect once, identified by an Idempotency-Key or by the SDK's retry count."""

    __tablename__ = "idempotency_keys"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    key: Mapped[str | None] = mapped_column(String(255))
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary(32))
    """SHA-256 of path, query and body."""
    attempt: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """The latest retry recognised as a repetition of this request."""
    status: Mapped[int | None] = mapped_column(Integer)
    """HTTP status of the response; None while the request runs."""
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    """Body of the response; None if it held a secret."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    lease_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """Until then the server that runs the request is alive."""
    has_effect: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    """Whether the request has changed something."""

    __table_args__ = (
        Index("uq_idempotency_keys_key", "api_key_id", "key", unique=True, postgresql_where="key IS NOT NULL"),
        Index("ix_idempotency_keys_retries", "api_key_id", "fingerprint", postgresql_where="key IS NULL"),
        Index("ix_idempotency_keys_created_at", "created_at"),
    )
