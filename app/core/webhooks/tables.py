"""Webhook endpoints and their deliveries."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, Index, Integer, LargeBinary, String, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.core.db import Base

STATES = ("pending", "delivered", "parked")


class WebhookEndpoint(Base):
    """An address that receives events of a project's jobs."""

    __tablename__ = "webhook_endpoints"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(String(128))
    url: Mapped[str] = mapped_column(String(2048))
    event_types: Mapped[list[str]]
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    """Encrypted with the installation's key ring."""
    secret_hint: Mapped[str] = mapped_column(String(16))
    old_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    """Also signs until `old_secret_until`."""
    old_secret_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    disabled_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    """When the endpoint answered 410 Gone."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class WebhookDelivery(Base):
    """One event for one endpoint. It is retried until a 2xx response or until its last delay has passed."""

    __tablename__ = "webhook_deliveries"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    """The header `webhook-id`, the same in every try."""
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    event_type: Mapped[str] = mapped_column(String(64))
    payload: Mapped[str] = mapped_column(Text)
    """The bytes to send. Each try signs them again."""
    state: Mapped[str] = mapped_column(String(16), default="pending", server_default="pending")
    failures: Mapped[int] = mapped_column(Integer, default=0, server_default=text("0"))
    """Failed tries since the delivery was written or replayed."""
    due_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    claimed_until: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    tries: Mapped[list[dict[str, Any]]] = mapped_column(default=list, server_default=text("'[]'::jsonb"))
    """The latest tries: `{"at", "status_code", "error", "answer", "seconds"}`."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    delivered_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    __table_args__ = (
        CheckConstraint(f"state IN {STATES!r}", name="state"),
        CheckConstraint("(state = 'delivered') = (delivered_at IS NOT NULL)", name="delivered_iff_state"),
        Index(None, "endpoint_id", "created_at"),
        Index("ix_webhook_deliveries_due", "due_at", postgresql_where=text("state = 'pending'")),
    )
