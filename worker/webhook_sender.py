"""Sends due webhook deliveries, several at once, each under a claim that expires if the worker dies."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from app.core.db import Database
from app.core.egress.client import AddressRefused, Egress, EgressFailed
from app.core.prometheus import WEBHOOKS
from app.core.secrets import KeyRing
from app.core.webhooks import deliveries
from app.core.webhooks.deliveries import DeliveryTry, OutgoingDelivery

log = structlog.get_logger(__name__)

AT_ONCE: Final = 16
TIMEOUT_SECONDS: Final = 10.0
"""Limit for a whole request, from name resolution to the last byte of the response."""
CLAIM_SECONDS: Final = 60.0
ANSWER_BYTES: Final = 512


def deliver_batch(database: Database, egress: Egress, ring: KeyRing, timeout_seconds: float = TIMEOUT_SECONDS) -> bool:
    """Send up to 16 due deliveries; return False if none was due. Raises `DatabaseUnavailable`."""
    with database.transaction() as session:
        batch = deliveries.claim(session, ring, limit=AT_ONCE, seconds=CLAIM_SECONDS)
    if not batch:
        return False
    with ThreadPoolExecutor(len(batch), "webhook") as threads:
        tries = threads.map(lambda outgoing: send(egress, outgoing, timeout_seconds), batch)
        # Stored in order as results arrive: at most one timeout later than each result.
        for outgoing, tried in zip(batch, tries, strict=True):
            with database.transaction() as session:
                state = deliveries.settle(session, outgoing.id, tried)
            WEBHOOKS.labels(state or "gone").inc()
            log.info("webhook.tried", delivery=outgoing.id, status=tried.status_code, error=tried.error, state=state)
    return True


def send(egress: Egress, outgoing: OutgoingDelivery, timeout_seconds: float = TIMEOUT_SECONDS) -> DeliveryTry:
    """Make one attempt; errors are in the returned value."""
    if outgoing.problem is not None:
        return DeliveryTry(None, outgoing.problem, "", 0.0)
    started = time.monotonic()
    try:
        answer = egress.request(
            "POST",
            outgoing.url,
            content=outgoing.payload,
            headers=deliveries.signed_headers(outgoing),
            timeout_seconds=timeout_seconds,
            max_bytes=ANSWER_BYTES,
            cut=True,
        )
    except (AddressRefused, EgressFailed) as error:
        return DeliveryTry(None, error.message, "", time.monotonic() - started)
    wrong = None if 200 <= answer.status < 300 else f"the endpoint answered {answer.status}"
    return DeliveryTry(answer.status, wrong, answer.body.decode("utf-8", "replace"), time.monotonic() - started)
