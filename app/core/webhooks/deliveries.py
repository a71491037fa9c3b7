"""Claims of due webhook deliveries, and the results of sending them. Workers do the sending."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.orm import Session
from standardwebhooks import Webhook

from app.core.errors import BadSetup
from app.core.secrets import KeyRing
from app.core.webhooks.tables import WebhookDelivery, WebhookEndpoint

DELAYS: Final = tuple(
    timedelta(seconds=seconds) for seconds in (5, 300, 1800, 7200, 18_000, 36_000, 36_000, 50_400, 86_400)
)
"""After each failure: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h, 14 h, 24 h. Then it is parked."""
JITTER: Final = 0.1
KEPT: Final = timedelta(days=30)
"""Delivered and parked deliveries are kept for this time, to be inspected and replayed."""
KEPT_TRIES: Final = 12
GONE: Final = 410

AT_ONCE_EACH: Final = 4
"""Deliveries of one endpoint that are sent at once, so that a slow endpoint leaves room for the others."""

# `ahead` are the earlier pending deliveries of the same endpoint. NOT EXISTS with OFFSET each - 1 means that there are
# fewer than `each` of them, so only the first `each` deliveries of an endpoint can be claimed, by all workers together.
# SKIP LOCKED lets concurrent claims take different deliveries. A claim expires at `claimed_until`.
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
class OutgoingDelivery:
    """A claimed delivery with what is needed to send it."""

    id: str
    url: str
    payload: bytes
    secrets: tuple[str, ...] = ()
    problem: str | None = None
    """Why it cannot be signed; None if it can."""


@dataclass(frozen=True)
class DeliveryTry:
    """The result of one try to send a delivery."""

    status_code: int | None
    error: str | None
    answer: str
    """The first bytes of the response body."""
    seconds: float

    @property
    def succeeded(self) -> bool:
        """Whether the response is 2xx. A redirect is a failure: the endpoint has not accepted the delivery."""
        return self.status_code is not None and 200 <= self.status_code < 300


def any_due(session: Session) -> bool:
    """Return whether a due delivery is unclaimed."""
    free = WebhookDelivery.claimed_until.is_(None) | (WebhookDelivery.claimed_until < func.now())
    due = select(WebhookDelivery.id).where(
        WebhookDelivery.state == "pending", WebhookDelivery.due_at <= func.now(), free
    )
    return session.scalar(select(due.exists())) is True


def claim(session: Session, ring: KeyRing, *, limit: int, seconds: float) -> list[OutgoingDelivery]:
    """Claim due deliveries for `seconds`, by the database's clock. The claims of a worker that dies expire.

    Only the oldest few of each endpoint are claimed, so that a slow or busy endpoint does not delay the others. A
    secret that cannot be decrypted is the `problem` of its own deliveries.
    """
    taken = list(session.scalars(_CLAIM, {"limit": limit, "seconds": seconds, "each": AT_ONCE_EACH}))
    rows = session.execute(
        select(WebhookDelivery, WebhookEndpoint)
        .join(WebhookEndpoint, WebhookEndpoint.id == WebhookDelivery.endpoint_id)
        .where(WebhookDelivery.id.in_(taken))
    )
    now = session.scalar(select(func.now()))
    return [_outgoing(delivery, endpoint, ring, now) for delivery, endpoint in rows]


def _outgoing(
    delivery: WebhookDelivery, endpoint: WebhookEndpoint, ring: KeyRing, now: datetime | None
) -> OutgoingDelivery:
    payload = delivery.payload.encode()
    try:
        return OutgoingDelivery(delivery.id, endpoint.url, payload, secrets_of(endpoint, ring, now))
    except BadSetup as error:
        return OutgoingDelivery(delivery.id, endpoint.url, payload, problem=error.message)


def secrets_of(endpoint: WebhookEndpoint, ring: KeyRing, now: datetime | None) -> tuple[str, ...]:
    """Return the secret, and the old secret while it is still valid. Raises `BadSetup` if one cannot be decrypted."""
    valid = [ring.decrypt(endpoint.secret)]
    until = endpoint.old_secret_until
    if endpoint.old_secret is not None and until is not None and now is not None and until > now:
        valid.append(ring.decrypt(endpoint.old_secret))
    return tuple(valid)


def signed_headers(outgoing: OutgoingDelivery, now: datetime | None = None) -> dict[str, str]:
    """Return the headers of Standard Webhooks, one signature per secret. Receivers refuse old ones: sign each try."""
    at = now or datetime.now(UTC)
    signatures = [Webhook(secret).sign(outgoing.id, at, outgoing.payload.decode()) for secret in outgoing.secrets]
    return {
        "content-type": "application/json",
        "webhook-id": outgoing.id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def settle(session: Session, delivery_id: str, tried: DeliveryTry) -> str | None:
    """Store a try and return the delivery's new state, or None if its endpoint was deleted.

    A failed delivery is retried after its delay, and parked after the last delay. A 410 disables the endpoint and parks
    all of its pending deliveries.
    """
    delivery = session.get(WebhookDelivery, delivery_id, with_for_update=True, populate_existing=True)
    if delivery is None:
        return None
    record: dict[str, Any] = {
        "at": int(datetime.now(UTC).timestamp()),
        "status_code": tried.status_code,
        "error": tried.error,
        "answer": tried.answer.replace("\0", ""),
        "seconds": round(tried.seconds, 3),
    }
    delivery.tries = [*delivery.tries, record][-KEPT_TRIES:]
    delivery.claimed_until = None
    if tried.succeeded:
        delivery.state, delivery.delivered_at = "delivered", func.now()
    else:
        delivery.failures += 1
        _fail(session, delivery, gone=tried.status_code == GONE)
    session.flush()
    return delivery.state


def forget_old(session: Session) -> None:
    """Delete deliveries that are no longer pending and older than `KEPT`."""
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
        # Deliveries that other workers are sending now are locked; they get a 410 themselves.
        parked = WebhookDelivery.id.in_(waiting.with_for_update(skip_locked=True))
        session.execute(
            update(WebhookDelivery).where(parked).values(state="parked"),
            execution_options={"synchronize_session": False},
        )
    if gone or delivery.failures > len(DELAYS):
        delivery.state = "parked"
        return
    spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 # spreads retries; no secret
    delivery.due_at = func.now() + DELAYS[delivery.failures - 1] * spread
