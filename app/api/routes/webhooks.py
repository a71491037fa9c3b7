"""`/v1/webhook_endpoints`: who hears of what, tests, deliveries."""

import json
import time
from typing import Annotated

from fastapi import APIRouter, Body

from app.api.deps import Config, Db, Outgoing, Secrets
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
from app.core.egress.client import EgressFailed, check_url
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
    """Make an endpoint. The answer holds its signing secret, which cannot be had again."""
    check_url(body.url, outgoing.allowed, "url")
    with database.transaction() as session:
        made, secret = endpoints.create(
            session, caller.actor, secrets, name=body.name, url=body.url, event_types=body.event_types
        )
        return NewEndpointObject.model_validate(EndpointObject.of(made).model_dump() | {"signing_secret": secret})


@router.get("/webhook_endpoints", dependencies=[needs(Scope.webhooks_read)])
def list_endpoints(caller: Caller, database: Db, after: After = None, limit: Limit = 20) -> Page[EndpointObject]:
    """List the project's endpoints, newest first."""
    with database.reading() as session:
        found, more = endpoints.list_endpoints(session, caller.project_id, after=after, limit=limit)
        return page([EndpointObject.of(one) for one in found], more)


@router.get("/webhook_event_types", dependencies=[needs(Scope.webhooks_read)])
def list_event_types() -> EventTypeList:
    """What an endpoint can hear of."""
    return EventTypeList(data=[str(one) for one in EventType])


@router.get("/webhook_endpoints/{endpoint_id}", dependencies=[needs(Scope.webhooks_read)])
def retrieve_endpoint(caller: Caller, endpoint_id: EndpointId, database: Db) -> EndpointObject:
    """One endpoint, without its secret."""
    with database.reading() as session:
        return EndpointObject.of(endpoints.get_endpoint(session, caller.project_id, endpoint_id))


@router.post("/webhook_endpoints/{endpoint_id}", dependencies=[needs(Scope.webhooks_write)])
def update_endpoint(
    caller: Caller, endpoint_id: EndpointId, body: UpdateEndpoint, database: Db, outgoing: Outgoing
) -> EndpointObject:
    """Change an endpoint. One that was disabled for answering 410 hears again."""
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
    """Replace the signing secret; the old one signs as well for a day, if wanted."""
    keep = (body or RotateSecret()).keep_old_secret_active_for_24_hours
    with database.transaction() as session:
        changed, secret = endpoints.rotate_secret(session, caller.actor, secrets, endpoint_id, keep_old=keep)
        return NewEndpointObject.model_validate(EndpointObject.of(changed).model_dump() | {"signing_secret": secret})


@router.post("/webhook_endpoints/{endpoint_id}/test", dependencies=[needs(Scope.webhooks_write)])
def test_endpoint(
    caller: Caller, endpoint_id: EndpointId, body: TestEndpoint, database: Db, secrets: Secrets, outgoing: Outgoing
) -> EndpointTested:
    """Send an event of a job that does not exist, now, and say what the endpoint answered."""
    with database.transaction() as session:
        endpoint = endpoints.get_endpoint(session, caller.project_id, endpoint_id)
        url, signing = endpoint.url, deliveries.secrets_of(endpoint, secrets, endpoint.old_secret_until)
    event = {
        "id": ids.webhook_event_id(),
        "object": "event",
        "created_at": int(time.time()),
        "type": str(body.event_type),
        "data": {"id": "ftjob-test"},
    }
    sent = deliveries.Outgoing(ids.webhook_delivery_id(), url, json.dumps(event).encode(), signing[:1])
    try:
        answer = outgoing.request(
            "POST",
            url,
            content=sent.payload,
            headers=deliveries.signed_headers(sent),
            timeout_seconds=TEST_TIMEOUT_SECONDS,
            max_bytes=MAX_ANSWER_BYTES,
            cut=True,
        )
    except EgressFailed as error:  # no 5xx of ours, which clients would send again
        raise InvalidRequest(f"The endpoint was not reached: {error.message}.", code=error.code) from error
    return EndpointTested(webhook_endpoint_id=endpoint_id, event_type=str(body.event_type), status_code=answer.status)


@router.get("/webhook_endpoints/{endpoint_id}/deliveries", dependencies=[needs(Scope.webhooks_read)])
def list_deliveries(
    caller: Caller, endpoint_id: EndpointId, database: Db, after: After = None, limit: Limit = 20
) -> Page[DeliveryObject]:
    """List what was sent or waits to be, newest first, with each try."""
    with database.reading() as session:
        found, more = endpoints.list_deliveries(session, caller.project_id, endpoint_id, after=after, limit=limit)
        return page([DeliveryObject.of(one) for one in found], more)


@router.post(
    "/webhook_endpoints/{endpoint_id}/deliveries/{delivery_id}/replay", dependencies=[needs(Scope.webhooks_write)]
)
def replay_delivery(
    caller: Caller, endpoint_id: EndpointId, delivery_id: DeliveryId, database: Db, settings: Config
) -> DeliveryObject:
    """Send a delivery again, under its own id."""
    with database.transaction() as session:
        found = DeliveryObject.of(endpoints.replay(session, caller.actor, endpoint_id, delivery_id))
    if settings.redis_url is not None:
        broker.notify_webhooks(settings.redis_url)
    return found
