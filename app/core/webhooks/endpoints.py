"""A project's webhook endpoints and their secrets."""

import base64
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core import ids
from app.core.accounts import audit
from app.core.accounts.audit import Action, Actor
from app.core.accounts.tables import Project
from app.core.errors import InvalidRequest, NotFound
from app.core.secrets import KeyRing
from app.core.webhooks.events import EventType
from app.core.webhooks.tables import WebhookDelivery, WebhookEndpoint

MAX_ENDPOINTS: Final = 50
"""Per project."""
OLD_SECRET_LIFE: Final = timedelta(hours=24)
_SECRET_BYTES: Final = 32
_AUDITED: Final = ("name", "url", "event_types")


def create(
    session: Session, actor: Actor, ring: KeyRing, *, name: str, url: str, event_types: Sequence[EventType]
) -> tuple[WebhookEndpoint, str]:
    """Create an endpoint; return it and its secret. Raises `InvalidRequest` at the limit, and without a key ring."""
    session.execute(select(Project.id).where(Project.id == actor.project_id).with_for_update(key_share=True))
    count = select(func.count()).select_from(WebhookEndpoint).where(WebhookEndpoint.project_id == actor.project_id)
    if (session.scalar(count) or 0) >= MAX_ENDPOINTS:
        raise InvalidRequest(f"A project has at most {MAX_ENDPOINTS} webhook endpoints. Delete one first.")
    secret = new_secret()
    endpoint = WebhookEndpoint(
        id=ids.webhook_endpoint_id(),
        project_id=actor.project_id,
        name=name,
        url=url,
        event_types=[str(event_type) for event_type in event_types],
        secret=ring.encrypt_for_client(secret),
        secret_hint=_hint(secret),
    )
    session.add(endpoint)
    session.flush()
    audit.record(session, actor, Action.webhook_create, endpoint.id, after=audit.snapshot(endpoint, *_AUDITED))
    return endpoint, secret


def get_endpoint(session: Session, project_id: str, endpoint_id: str) -> WebhookEndpoint:
    """Return the endpoint. Raises `NotFound`, also for an endpoint of another project."""
    statement = select(WebhookEndpoint).where(
        WebhookEndpoint.id == endpoint_id, WebhookEndpoint.project_id == project_id
    )
    endpoint = session.scalars(statement).one_or_none()
    if endpoint is None:
        raise NotFound(
            f"The webhook endpoint '{endpoint_id}' does not exist in this project.", code="webhook_endpoint_not_found"
        )
    return endpoint


def list_endpoints(
    session: Session, project_id: str, *, after: str | None, limit: int
) -> tuple[list[WebhookEndpoint], bool]:
    """Return a page of endpoints, newest first, and whether more follow. Raises `InvalidRequest` for a bad `after`."""
    statement = select(WebhookEndpoint).where(WebhookEndpoint.project_id == project_id)
    if after is not None:
        last = session.get(WebhookEndpoint, after)
        if last is None or last.project_id != project_id:
            raise InvalidRequest(
                f"'after' is not the id of a webhook endpoint of this project: {after!r}.", param="after"
            )
        key = (WebhookEndpoint.created_at, WebhookEndpoint.id)
        statement = statement.where(func.row(*key) < func.row(last.created_at, last.id))
    ordered = statement.order_by(WebhookEndpoint.created_at.desc(), WebhookEndpoint.id.desc()).limit(limit + 1)
    rows = list(session.scalars(ordered))
    return rows[:limit], len(rows) > limit


def update(
    session: Session,
    actor: Actor,
    endpoint_id: str,
    *,
    name: str | None,
    url: str | None,
    event_types: Sequence[EventType] | None,
) -> WebhookEndpoint:
    """Change the values that are not None, and enable an endpoint that a 410 disabled. Raises `NotFound`."""
    endpoint = get_endpoint(session, actor.project_id, endpoint_id)
    before = audit.snapshot(endpoint, *_AUDITED)
    endpoint.name = endpoint.name if name is None else name
    endpoint.url = endpoint.url if url is None else url
    endpoint.event_types = (
        endpoint.event_types if event_types is None else [str(event_type) for event_type in event_types]
    )
    after = audit.snapshot(endpoint, *_AUDITED)
    if after != before or endpoint.disabled_at is not None:
        endpoint.disabled_at = None
        endpoint.updated_at = func.now()
    session.flush()
    session.refresh(endpoint)
    audit.record(session, actor, Action.webhook_update, endpoint.id, before=before, after=after)
    return endpoint


def rotate_secret(
    session: Session, actor: Actor, ring: KeyRing, endpoint_id: str, *, keep_old: bool
) -> tuple[WebhookEndpoint, str]:
    """Replace the secret; with `keep_old` the old secret signs as well for a day. Raises `NotFound`."""
    endpoint = get_endpoint(session, actor.project_id, endpoint_id)
    before = {"signing_secret_hint": endpoint.secret_hint}
    secret = new_secret()
    endpoint.old_secret = endpoint.secret if keep_old else None
    endpoint.old_secret_until = func.now() + OLD_SECRET_LIFE if keep_old else None
    endpoint.secret, endpoint.secret_hint = ring.encrypt_for_client(secret), _hint(secret)
    endpoint.updated_at = func.now()
    session.flush()
    session.refresh(endpoint)
    after = {"signing_secret_hint": endpoint.secret_hint}
    audit.record(session, actor, Action.webhook_rotate, endpoint.id, before=before, after=after)
    return endpoint, secret


def delete(session: Session, actor: Actor, endpoint_id: str) -> None:
    """Delete the endpoint and its deliveries. Raises `NotFound`."""
    endpoint = get_endpoint(session, actor.project_id, endpoint_id)
    audit.record(session, actor, Action.webhook_delete, endpoint.id, before=audit.snapshot(endpoint, *_AUDITED))
    session.delete(endpoint)
    session.flush()


def list_deliveries(
    session: Session, project_id: str, endpoint_id: str, *, after: str | None, limit: int
) -> tuple[list[WebhookDelivery], bool]:
    """Return a page of deliveries, newest first, and whether more follow. Raises `NotFound` and `InvalidRequest`."""
    endpoint = get_endpoint(session, project_id, endpoint_id)
    statement = select(WebhookDelivery).where(WebhookDelivery.endpoint_id == endpoint.id)
    if after is not None:
        last = session.get(WebhookDelivery, after)
        if last is None or last.endpoint_id != endpoint.id:
            raise InvalidRequest(f"'after' is not the id of a delivery of this endpoint: {after!r}.", param="after")
        key = (WebhookDelivery.created_at, WebhookDelivery.id)
        statement = statement.where(func.row(*key) < func.row(last.created_at, last.id))
    ordered = statement.order_by(WebhookDelivery.created_at.desc(), WebhookDelivery.id.desc()).limit(limit + 1)
    rows = list(session.scalars(ordered))
    return rows[:limit], len(rows) > limit


def replay(session: Session, actor: Actor, endpoint_id: str, delivery_id: str) -> WebhookDelivery:
    """Queue a delivery again under the same id, with all of its tries. Raises `NotFound`."""
    endpoint = get_endpoint(session, actor.project_id, endpoint_id)
    delivery = session.get(WebhookDelivery, delivery_id, with_for_update=True)
    if delivery is None or delivery.endpoint_id != endpoint.id:
        raise NotFound(
            f"The delivery '{delivery_id}' does not exist for this endpoint.", code="webhook_delivery_not_found"
        )
    delivery.state, delivery.failures, delivery.delivered_at = "pending", 0, None
    delivery.due_at = func.now()
    session.flush()
    session.refresh(delivery)
    audit.record(session, actor, Action.webhook_replay, delivery.id, after={"endpoint": endpoint.id})
    return delivery


def new_secret() -> str:
    """Return a new secret in the format of Standard Webhooks: `whsec_` and 32 random bytes in base64."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def _hint(secret: str) -> str:
    return f"whsec_...{secret[-4:]}"
