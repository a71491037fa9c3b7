"""Bodies of `/v1/webhook_endpoints`, in OpenAI's format."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from app.api.pagination import Item
from app.core.spec.described import Described
from app.core.spec.frozen import Frozen
from app.core.webhooks.events import EventType
from app.core.webhooks.tables import WebhookDelivery, WebhookEndpoint

Name = Annotated[str, Field(min_length=1, max_length=128)]
Url = Annotated[
    str, Field(max_length=2048, description="Must be `https://` and public, unless the operator allows its host.")
]
EventTypes = Annotated[
    tuple[EventType, ...], Field(min_length=1, max_length=32, description="The events to subscribe to.")
]


class CreateEndpoint(Frozen):
    """An endpoint to create."""

    name: Name
    """A name for people."""
    url: Url
    event_types: EventTypes


class UpdateEndpoint(Frozen):
    """Changes to an endpoint."""

    name: Name | None = None
    """A new name."""
    url: Url | None = None
    """A new URL. It must be `https://` and public, unless the operator allows its host."""
    event_types: EventTypes | None = None
    """The events to subscribe to, instead of the current ones."""


class RotateSecret(Frozen):
    """Options of a secret rotation."""

    keep_old_secret_active_for_24_hours: bool = False
    """Whether deliveries are also signed with the old secret for a day."""


class TestEndpoint(Frozen):
    """The event to send."""

    __test__ = False

    event_type: EventType
    """The type of the event to send."""


class EndpointObject(Item):
    """An endpoint without its secret."""

    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    name: str
    """A name for people."""
    url: str
    """The URL that receives the events."""
    event_types: list[str]
    """The events that the endpoint is subscribed to."""
    created_at: int
    """Unix seconds."""
    updated_at: int
    """Unix seconds."""
    signing_secret_hint: str
    """The end of the secret, to recognise it."""
    disabled_at: int | None = Field(description="Set when the endpoint returned 410 Gone; an update enables it again.")

    @classmethod
    def of(cls, endpoint: WebhookEndpoint, **more: Any) -> "EndpointObject":
        """Return the wire form of a row."""
        return cls(
            id=endpoint.id,
            name=endpoint.name,
            url=endpoint.url,
            event_types=endpoint.event_types,
            created_at=_seconds(endpoint.created_at) or 0,
            updated_at=_seconds(endpoint.updated_at) or 0,
            signing_secret_hint=endpoint.secret_hint,
            disabled_at=_seconds(endpoint.disabled_at),
            **more,
        )


class NewEndpointObject(EndpointObject):
    """An endpoint with its secret, which is shown only once."""

    signing_secret: str
    """The secret that signs deliveries. Store it now: it is shown only once."""


class EndpointDeleted(Described):
    """The endpoint is deleted."""

    id: str
    """The endpoint."""
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: Literal[True] = True


class EndpointTested(Described):
    """The result of a test."""

    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    """The endpoint."""
    event_type: str
    """The type of the event that was sent."""
    status_code: int
    """HTTP status of the endpoint's response."""
    success: Literal[True] = True


class EventTypeList(Described):
    """The event types that can be subscribed to."""

    object: Literal["list"] = "list"
    data: list[str]
    """The event types."""


class DeliveryTryObject(Described):
    """One try to deliver an event."""

    at: int
    """Unix seconds."""
    status_code: int | None
    """HTTP status of the endpoint's response; null without a response."""
    error: str | None
    """Why there was no response; null if there was one."""
    answer: str
    """The beginning of the response's body."""
    seconds: float
    """Duration of the try."""


class DeliveryObject(Item):
    """The delivery of one event to one endpoint."""

    object: Literal["webhook_delivery"] = "webhook_delivery"
    event_type: str
    """The type of the event."""
    payload: str
    """The body that is sent, as JSON text."""
    state: Literal["pending", "delivered", "parked"]
    """`parked`: all tries failed, or the endpoint is disabled; it can be replayed."""
    created_at: int
    """Unix seconds."""
    delivered_at: int | None
    """Unix seconds; null until it is delivered."""
    due_at: int | None = Field(description="When the next try is due.")
    tries: list[DeliveryTryObject]
    """The tries so far, oldest first."""

    @classmethod
    def of(cls, delivery: WebhookDelivery) -> "DeliveryObject":
        """Return the wire form of a row."""
        return cls.model_validate(
            {
                "id": delivery.id,
                "event_type": delivery.event_type,
                "payload": delivery.payload,
                "state": delivery.state,
                "created_at": _seconds(delivery.created_at),
                "delivered_at": _seconds(delivery.delivered_at),
                "due_at": _seconds(delivery.due_at) if delivery.state == "pending" else None,
                "tries": delivery.tries,
            }
        )


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
