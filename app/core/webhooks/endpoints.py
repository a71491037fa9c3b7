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
from app.core.errors import BadSetup, InvalidRequest, NotFound
from app.core.secrets import KeyRing
from app.core.webhooks.events import EventType
from app.core.webhooks.tables import WebhookDelivery, WebhookEndpoint

MAX_ENDPOINTS: Final = 50
"""Of a project."""
OLD_SECRET_LIFE: Final = timedelta(hours=24)
_SECRET_BYTES: Final = 32
_AUDITED: Final = ("name", "url", "event_types")


def create(
    session: Session, actor: Actor, ring: KeyRing, *, name: str, url: str, event_types: Sequence[EventType]
) -> tuple[WebhookEndpoint, str]:
    """A new endpoint and its secret. Raises `InvalidRequest` for one too many, and without a key ring."""
    session.execute(select(Project.id).where(Project.id == actor.project_id).with_for_update(key_share=True))
    count = select(func.count()).select_from(WebhookEndpoint).where(WebhookEndpoint.project_id == actor.project_id)
    if (session.scalar(count) or 0) >= MAX_ENDPOINTS:
        raise InvalidRequest(f"A project has at most {MAX_ENDPOINTS} webhook endpoints; delete one first.")
    secret = new_secret()
    endpoint = WebhookEndpoint(
        id=ids.webhook_endpoint_id(),
        project_id=actor.project_id,
        name=name,
        url=url,
        event_types=[str(one) for one in event_types],
        secret=_encrypted(ring, secret),
        secret_hint=_hint(secret),
    )
    session.add(endpoint)
    session.flush()
    audit.record(session, actor, Action.webhook_create, endpoint.id, after=audit.snapshot(endpoint, *_AUDITED))
    return endpoint, secret


def get_endpoint(session: Session, project_id: str, endpoint_id: str) -> WebhookEndpoint:
    """Raises `NotFound`, also for another project's."""
    wanted = select(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id, WebhookEndpoint.project_id == project_id)
    endpoint = session.scalars(wanted).one_or_none()
    if endpoint is None:
        raise NotFound(f"There is no webhook endpoint '{endpoint_id}'.", code="webhook_endpoint_not_found")
    return endpoint


def list_endpoints(
    session: Session, project_id: str, *, after: str | None, limit: int
) -> tuple[list[WebhookEndpoint], bool]:
    """A page, newest first, and whether there are more. Raises `InvalidRequest` for an unknown `after`."""
    wanted = select(WebhookEndpoint).where(WebhookEndpoint.project_id == project_id)
    if after is not None:
        last = session.get(WebhookEndpoint, after)
        if last is None or last.project_id != project_id:
            raise InvalidRequest(f"There is no webhook endpoint '{after}' to go on after.", param="after")
        key = (WebhookEndpoint.created_at, WebhookEndpoint.id)
        wanted = wanted.where(func.row(*key) < func.row(last.created_at, last.id))
    ordered = wanted.order_by(WebhookEndpoint.created_at.desc(), WebhookEndpoint.id.desc()).limit(limit + 1)
    found = list(session.scalars(ordered))
    return found[:limit], len(found) > limit


def update(
    session: Session,
    actor: Actor,
    endpoint_id: str,
    *,
    name: str | None,
    url: str | None,
    event_types: Sequence[EventType] | None,
) -> WebhookEndpoint:
    """Changes what is not None; one that was disabled for its 410 is tried again. Raises `NotFound`."""
    endpoint = get_endpoint(session, actor.project_id, endpoint_id)
    before = audit.snapshot(endpoint, *_AUDITED)
    endpoint.name = endpoint.name if name is None else name
    endpoint.url = endpoint.url if url is None else url
    endpoint.event_types = endpoint.event_types if event_types is None else [str(one) for one in event_types]
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
    """A new secret; with `keep_old` the old one signs as well for a day. Raises `NotFound`."""
    endpoint = get_endpoint(session, actor.project_id, endpoint_id)
    before = {"signing_secret_hint": endpoint.secret_hint}
    secret = new_secret()
    endpoint.old_secret = endpoint.secret if keep_old else None
    endpoint.old_secret_until = func.now() + OLD_SECRET_LIFE if keep_old else None
    endpoint.secret, endpoint.secret_hint = _encrypted(ring, secret), _hint(secret)
    endpoint.updated_at = func.now()
    session.flush()
    session.refresh(endpoint)
    after = {"signing_secret_hint": endpoint.secret_hint}
    audit.record(session, actor, Action.webhook_rotate, endpoint.id, before=before, after=after)
    return endpoint, secret


def delete(session: Session, actor: Actor, endpoint_id: str) -> None:
    """Deletes the endpoint and its deliveries. Raises `NotFound`."""
    endpoint = get_endpoint(session, actor.project_id, endpoint_id)
    audit.record(session, actor, Action.webhook_delete, endpoint.id, before=audit.snapshot(endpoint, *_AUDITED))
    session.delete(endpoint)
    session.flush()


def list_deliveries(
    session: Session, project_id: str, endpoint_id: str, *, after: str | None, limit: int
) -> tuple[list[WebhookDelivery], bool]:
    """A page, newest first. Raises `NotFound`, and `InvalidRequest` for an unknown `after`."""
    endpoint = get_endpoint(session, project_id, endpoint_id)
    wanted = select(WebhookDelivery).where(WebhookDelivery.endpoint_id == endpoint.id)
    if after is not None:
        last = session.get(WebhookDelivery, after)
        if last is None or last.endpoint_id != endpoint.id:
            raise InvalidRequest(f"There is no delivery '{after}' to go on after.", param="after")
        key = (WebhookDelivery.created_at, WebhookDelivery.id)
        wanted = wanted.where(func.row(*key) < func.row(last.created_at, last.id))
    ordered = wanted.order_by(WebhookDelivery.created_at.desc(), WebhookDelivery.id.desc()).limit(limit + 1)
    found = list(session.scalars(ordered))
    return found[:limit], len(found) > limit


def replay(session: Session, actor: Actor, endpoint_id: str, delivery_id: str) -> WebhookDelivery:
    """Sends a delivery again, from the first try, under its own id. Raises `NotFound`."""
    endpoint = get_endpoint(session, actor.project_id, endpoint_id)
    delivery = session.get(WebhookDelivery, delivery_id, with_for_update=True)
    if delivery is None or delivery.endpoint_id != endpoint.id:
        raise NotFound(f"There is no delivery '{delivery_id}'.", code="webhook_delivery_not_found")
    delivery.state, delivery.failures, delivery.delivered_at = "pending", 0, None
    delivery.due_at = func.now()
    session.flush()
    session.refresh(delivery)
    audit.record(session, actor, Action.webhook_replay, delivery.id, after={"endpoint": endpoint.id})
    return delivery


def new_secret() -> str:
    """`whsec_` and 32 random bytes, as Standard Webhooks writes them."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def _encrypted(ring: KeyRing, secret: str) -> bytes:
    try:
        return ring.encrypt(secret)
    except BadSetup as error:  # no 5xx: trying again does not help, telling the operator does
        raise InvalidRequest(error.message, code=error.code) from error


def _hint(secret: str) -> str:
    return f"whsec_...{secret[-4:]}"
