"""Taking due deliveries and writing down what became of them. Sending is the worker's."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.orm import Session
from standardwebhooks import Webhook

from app.core.secrets import KeyRing
from app.core.webhooks.tables import WebhookDelivery, WebhookEndpoint

DELAYS: Final = tuple(
    timedelta(seconds=seconds) for seconds in (5, 300, 1800, 7200, 18_000, 36_000, 36_000, 50_400, 86_400)
)
"""After each failure: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h, 14 h, 24 h. After one more it is parked."""
JITTER: Final = 0.1
KEPT: Final = timedelta(days=30)
"""Deliveries that are over, to be looked at and replayed."""
KEPT_TRIES: Final = 12
GONE: Final = 410

AT_ONCE_EACH: Final = 4
"""Of one endpoint: a slow one leaves room for the others."""

_CLAIM: Final = text(
    """
    UPDATE webhook_deliveries SET claimed_until = now() + make_interval(secs => :seconds)
    WHERE id IN (
        SELECT webhook_deliveries.id FROM webhook_deliveries
        WHERE state = 'pending' AND due_at <= now() AND (claimed_until IS NULL OR claimed_until < now())
          AND NOT EXISTS (
              SELECT 1 FROM webhook_deliveries AS ahead
              WHERE ahead.endpoint_id = webhook_deliveries.endpoint_id AND ahead.state = 'pending'
                AND (ahead.due_at, ahead.id) < (webhook_deliveries.due_at, webhook_deliveries.id)
              OFFSET :each - 1
          )
        ORDER BY due_at
        FOR UPDATE SKIP LOCKED
        LIMIT :limit
    )
    RETURNING id
    """
)


@dataclass(frozen=True)
class Outgoing:
    """A delivery that this worker sends."""

    id: str
    url: str
    payload: bytes
    secrets: tuple[str, ...]


@dataclass(frozen=True)
class Tried:
    """What became of one try."""

    status_code: int | None
    error: str | None
    answer: str
    """The first bytes of it."""
    seconds: float

    @property
    def succeeded(self) -> bool:
        """2xx alone: whoever redirects has not taken it."""
        return self.status_code is not None and 200 <= self.status_code < 300


def any_due(session: Session) -> bool:
    """Whether a delivery waits that nobody works on."""
    free = WebhookDelivery.claimed_until.is_(None) | (WebhookDelivery.claimed_until < func.now())
    due = select(WebhookDelivery.id).where(
        WebhookDelivery.state == "pending", WebhookDelivery.due_at <= func.now(), free
    )
    return session.scalar(select(due.exists())) is True


def claim(session: Session, ring: KeyRing, *, limit: int, seconds: float) -> list[Outgoing]:
    """Takes due deliveries for so long, by the database's clock; whoever dies holds them no longer.

    Of each endpoint the oldest few alone, so that one that is slow or has much to hear holds up nobody else.
    Raises `BadSetup` when a secret cannot be decrypted.
    """
    taken = list(session.scalars(_CLAIM, {"limit": limit, "seconds": seconds, "each": AT_ONCE_EACH}))
    rows = session.execute(
        select(WebhookDelivery, WebhookEndpoint)
        .join(WebhookEndpoint, WebhookEndpoint.id == WebhookDelivery.endpoint_id)
        .where(WebhookDelivery.id.in_(taken))
    )
    now = session.scalar(select(func.now()))
    return [
        Outgoing(delivery.id, endpoint.url, delivery.payload.encode(), secrets_of(endpoint, ring, now))
        for delivery, endpoint in rows
    ]


def secrets_of(endpoint: WebhookEndpoint, ring: KeyRing, now: datetime | None) -> tuple[str, ...]:
    """The secret, and the one before while it is good. Raises `BadSetup`."""
    found = [ring.decrypt(endpoint.secret)]
    until = endpoint.old_secret_until
    if endpoint.old_secret is not None and until is not None and now is not None and until > now:
        found.append(ring.decrypt(endpoint.old_secret))
    return tuple(found)


def signed_headers(outgoing: Outgoing, now: datetime | None = None) -> dict[str, str]:
    """Headers of Standard Webhooks, one signature a secret; made anew for each try, as receivers refuse old ones."""
    at = now or datetime.now(UTC)
    signatures = [Webhook(secret).sign(outgoing.id, at, outgoing.payload.decode()) for secret in outgoing.secrets]
    return {
        "content-type": "application/json",
        "webhook-id": outgoing.id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def settle(session: Session, delivery_id: str, tried: Tried) -> str | None:
    """Writes down a try; returns the new state, or None when its endpoint is gone.

    A failure is tried again after its delay, and after the last one parked. 410 disables the endpoint, and parks all
    that waits for it.
    """
    delivery = session.get(WebhookDelivery, delivery_id, with_for_update=True, populate_existing=True)
    if delivery is None:
        return None
    note: dict[str, Any] = {
        "at": int(datetime.now(UTC).timestamp()),
        "status_code": tried.status_code,
        "error": tried.error,
        "answer": tried.answer.replace("\0", ""),
        "seconds": round(tried.seconds, 3),
    }
    delivery.tries = [*delivery.tries, note][-KEPT_TRIES:]
    delivery.claimed_until = None
    if tried.succeeded:
        delivery.state, delivery.delivered_at = "delivered", func.now()
    else:
        delivery.failures += 1
        _fail(session, delivery, gone=tried.status_code == GONE)
    session.flush()
    return delivery.state


def forget_old(session: Session) -> None:
    """Removes what was delivered or parked long ago."""
    over = WebhookDelivery.state != "pending", WebhookDelivery.created_at < func.now() - KEPT
    session.execute(delete(WebhookDelivery).where(*over), execution_options={"synchronize_session": False})


def _fail(session: Session, delivery: WebhookDelivery, *, gone: bool) -> None:
    if gone:
        session.execute(
            update(WebhookEndpoint).where(WebhookEndpoint.id == delivery.endpoint_id).values(disabled_at=func.now())
        )
        waiting = select(WebhookDelivery.id).where(
            WebhookDelivery.endpoint_id == delivery.endpoint_id, WebhookDelivery.state == "pending"
        )
        # Those that are in other hands just now get a 410 of their own.
        parked = WebhookDelivery.id.in_(waiting.with_for_update(skip_locked=True))
        session.execute(
            update(WebhookDelivery).where(parked).values(state="parked"),
            execution_options={"synchronize_session": False},
        )
    if gone or delivery.failures > len(DELAYS):
        delivery.state = "parked"
        return
    spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 # against herds, no secret
    delivery.due_at = func.now() + DELAYS[delivery.failures - 1] * spread
