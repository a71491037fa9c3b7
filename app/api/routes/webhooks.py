"""`/v1/webhook_endpoints`: endpoints for events about jobs, their deliveries and tests."""

import json
import time
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request

from app.api.deps import Config, Db, Outgoing, Secrets, Slow
from app.api.ids import DeliveryId, EndpointId
from app.api.pagination import After, Limit, Page, page
from app.api.schemas.webhooks import (
    CreateEndpoint,
    DeliveryObject,
    EndpointDeleted,
    EndpointObject,
    EndpointTested,
    EventTypeList,
    NewEndpointObject,
    RotateSecret,
    TestEndpoint,
    UpdateEndpoint,
)
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core import broker, ids
from app.core.accounts.scopes import Scope
from app.core.deadline import Deadline
from app.core.egress.client import Egress, EgressFailed, check_url
from app.core.errors import InvalidRequest
from app.core.webhooks import deliveries, endpoints
from app.core.webhooks.events import EventType

router = APIRouter(tags=["Webhooks"])
TEST_TIMEOUT_SECONDS = 10.0
MAX_ANSWER_BYTES = 512


@router.post("/webhook_endpoints", dependencies=[needs(Scope.webhooks_write)])
def create_endpoint(
    caller: Caller, body: CreateEndpoint, database: Db, secrets: Secrets, outgoing: Outgoing
) -> NewEndpointObject:
    """Create an endpoint. Only this response contains its signing secret."""
    check_url(body.url, outgoing.allowed, "url")
    with database.transaction() as session:
        endpoint, secret = endpoints.create(
            session, caller.actor, secrets, name=body.name, url=body.url, event_types=body.event_types
        )
        return NewEndpointObject.model_validate(EndpointObject.of(endpoint).model_dump() | {"signing_secret": secret})


@router.get("/webhook_endpoints", dependencies=[needs(Scope.webhooks_read)])
def list_endpoints(caller: Caller, database: Db, after: After = None, limit: Limit = 20) -> Page[EndpointObject]:
    """List the project's endpoints, newest first."""
    with database.reading() as session:
        page_endpoints, more = endpoints.list_endpoints(session, caller.project_id, after=after, limit=limit)
        return page([EndpointObject.of(endpoint) for endpoint in page_endpoints], more)


@router.get("/webhook_event_types", dependencies=[needs(Scope.webhooks_read)])
def list_event_types() -> EventTypeList:
    """List the event types that an endpoint can subscribe to."""
    return EventTypeList(data=[str(event_type) for event_type in EventType])


@router.get("/webhook_endpoints/{endpoint_id}", dependencies=[needs(Scope.webhooks_read)])
def retrieve_endpoint(caller: Caller, endpoint_id: EndpointId, database: Db) -> EndpointObject:
    """Retrieve an endpoint, without its secret."""
    with database.reading() as session:
        return EndpointObject.of(endpoints.get_endpoint(session, caller.project_id, endpoint_id))


@router.post("/webhook_endpoints/{endpoint_id}", dependencies=[needs(Scope.webhooks_write)])
def update_endpoint(
    caller: Caller, endpoint_id: EndpointId, body: UpdateEndpoint, database: Db, outgoing: Outgoing
) -> EndpointObject:
    """Change an endpoint. This also enables an endpoint again that was disabled because it returned 410."""
    if body.url is not None:
        check_url(body.url, outgoing.allowed, "url")
    with database.transaction() as session:
        changed = endpoints.update(
            session, caller.actor, endpoint_id, name=body.name, url=body.url, event_types=body.event_types
        )
        return EndpointObject.of(changed)


@router.delete("/webhook_endpoints/{endpoint_id}", dependencies=[needs(Scope.webhooks_write)])
def delete_endpoint(caller: Caller, endpoint_id: EndpointId, database: Db) -> EndpointDeleted:
    """Delete an endpoint with its deliveries."""
    with database.transaction() as session:
        endpoints.delete(session, caller.actor, endpoint_id)
    return EndpointDeleted(id=endpoint_id)


@router.post("/webhook_endpoints/{endpoint_id}/rotate_secret", dependencies=[needs(Scope.webhooks_write)])
def rotate_secret(
    caller: Caller,
    endpoint_id: EndpointId,
    database: Db,
    secrets: Secrets,
    body: Annotated[RotateSecret | None, Body()] = None,
) -> NewEndpointObject:
    """Replace the signing secret. On request, deliveries carry a signature with the old secret as well, for one day."""
    keep = (body or RotateSecret()).keep_old_secret_active_for_24_hours
    with database.transaction() as session:
        changed, secret = endpoints.rotate_secret(session, caller.actor, secrets, endpoint_id, keep_old=keep)
        return NewEndpointObject.model_validate(EndpointObject.of(changed).model_dump() | {"signing_secret": secret})


@router.post("/webhook_endpoints/{endpoint_id}/test", dependencies=[needs(Scope.webhooks_write)])
async def test_endpoint(
    request: Request,
    caller: Caller,
    endpoint_id: EndpointId,
    body: TestEndpoint,
    database: Db,
    secrets: Secrets,
    outgoing: Outgoing,
    slow: Slow,
) -> EndpointTested:
    """Send an event about a job that does not exist, and return the endpoint's status code."""

    def send(deadline: Deadline) -> EndpointTested:
        with database.transaction() as session:
            endpoint = endpoints.get_endpoint(session, caller.project_id, endpoint_id)
            url, signing = endpoint.url, deliveries.secrets_of(endpoint, secrets, endpoint.old_secret_until)
        event = _test_event(body.event_type)
        sent = deliveries.OutgoingDelivery(ids.webhook_delivery_id(), url, json.dumps(event).encode(), signing[:1])
        status = _send(outgoing, sent, deadline)
        return EndpointTested(webhook_endpoint_id=endpoint_id, event_type=str(body.event_type), status_code=status)

    return await slow.remote.run(request, caller.project_id, send)


def _test_event(event_type: EventType) -> dict[str, Any]:
    return {
        "id": ids.webhook_event_id(),
        "object": "event",
        "created_at": int(time.time()),
        "type": str(event_type),
        "data": {"id": "ftjob-test"},
    }


def _send(outgoing: Egress, sent: deliveries.OutgoingDelivery, deadline: Deadline) -> int:
    """Send a test event, and return the status code of the endpoint. Raises `InvalidRequest` without an answer."""
    try:
        answer = outgoing.request(
            "POST",
            sent.url,
            content=sent.payload,
            headers=deliveries.signed_headers(sent),
            timeout_seconds=TEST_TIMEOUT_SECONDS,
            max_bytes=MAX_ANSWER_BYTES,
            cut=True,
            deadline=deadline,
        )
    except EgressFailed as error:  # not one of our 5xx, which clients would retry
        raise InvalidRequest(f"The endpoint could not be reached: {error.message}.", code=error.code) from error
    return answer.status


@router.get("/webhook_endpoints/{endpoint_id}/deliveries", dependencies=[needs(Scope.webhooks_read)])
def list_deliveries(
    caller: Caller, endpoint_id: EndpointId, database: Db, after: After = None, limit: Limit = 20
) -> Page[DeliveryObject]:
    """List deliveries, pending ones included, newest first, each with its tries."""
    with database.reading() as session:
        page_deliveries, more = endpoints.list_deliveries(
            session, caller.project_id, endpoint_id, after=after, limit=limit
        )
        return page([DeliveryObject.of(delivery) for delivery in page_deliveries], more)


@router.post(
    "/webhook_endpoints/{endpoint_id}/deliveries/{delivery_id}/replay", dependencies=[needs(Scope.webhooks_write)]
)
def replay_delivery(
    caller: Caller, endpoint_id: EndpointId, delivery_id: DeliveryId, database: Db, settings: Config
) -> DeliveryObject:
    """Send a delivery again under its original id."""
    with database.transaction() as session:
        delivery = DeliveryObject.of(endpoints.replay(session, caller.actor, endpoint_id, delivery_id))
    if settings.redis_url is not None:
        broker.notify_webhooks(settings.redis_url)
    return delivery
