"""Bodies of `/v1/webhook_endpoints`, in OpenAI's format."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.api.pagination import Item
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
    url: Url
    event_types: EventTypes


class UpdateEndpoint(Frozen):
    """Changes to an endpoint."""

    name: Name | None = None
    url: Url | None = None
    event_types: EventTypes | None = None


class RotateSecret(Frozen):
    """Options of a secret rotation."""

    keep_old_secret_active_for_24_hours: bool = False


class TestEndpoint(Frozen):
    """The event to send."""

    __test__ = False

    event_type: EventType


class EndpointObject(Item):
    """An endpoint without its secret."""

    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    name: str
    url: str
    event_types: list[str]
    created_at: int
    updated_at: int
    signing_secret_hint: str
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


class EndpointDeleted(BaseModel):
    """The endpoint is deleted."""

    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: Literal[True] = True


class EndpointTested(BaseModel):
    """The result of a test."""

    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: str
    status_code: int
    success: Literal[True] = True


class EventTypeList(BaseModel):
    """The event types that can be subscribed to."""

    object: Literal["list"] = "list"
    data: list[str]


class DeliveryTryObject(BaseModel):
    """One try to deliver an event."""

    at: int
    status_code: int | None
    error: str | None
    answer: str
    seconds: float


class DeliveryObject(Item):
    """The delivery of one event to one endpoint."""

    object: Literal["webhook_delivery"] = "webhook_delivery"
    event_type: str
    payload: str
    state: Literal["pending", "delivered", "parked"]
    created_at: int
    delivered_at: int | None
    due_at: int | None = Field(description="When the next try is due.")
    tries: list[DeliveryTryObject]

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
