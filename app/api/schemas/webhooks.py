"""Webhook endpoints on the wire, in OpenAI's shapes."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.api.pagination import Item
from app.core.spec.frozen import Frozen
from app.core.webhooks.events import EventType
from app.core.webhooks.tables import WebhookDelivery, WebhookEndpoint

Name = Annotated[str, Field(min_length=1, max_length=128)]
Url = Annotated[str, Field(max_length=2048, description="`https://`, and public unless the operator allows its host.")]
EventTypes = Annotated[tuple[EventType, ...], Field(min_length=1, max_length=32, description="What it hears of.")]


class CreateEndpoint(Frozen):
    """A new endpoint."""

    name: Name
    url: Url
    event_types: EventTypes


class UpdateEndpoint(Frozen):
    """What is to change."""

    name: Name | None = None
    url: Url | None = None
    event_types: EventTypes | None = None


class RotateSecret(Frozen):
    """How the secret is replaced."""

    keep_old_secret_active_for_24_hours: bool = False


class TestEndpoint(Frozen):
    """Which event to send."""

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
    disabled_at: int | None = Field(description="It has answered 410 Gone; an update makes it hear again.")

    @classmethod
    def of(cls, endpoint: WebhookEndpoint, **more: Any) -> "EndpointObject":
        """The wire form of a row."""
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
    """An endpoint whose secret is shown this once."""

    signing_secret: str


class EndpointDeleted(BaseModel):
    """It is gone."""

    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: Literal[True] = True


class EndpointTested(BaseModel):
    """What the endpoint answered."""

    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: str
    status_code: int
    success: Literal[True] = True


class EventTypeList(BaseModel):
    """What can be heard of."""

    object: Literal["list"] = "list"
    data: list[str]


class Try(BaseModel):
    """One try of a delivery."""

    at: int
    status_code: int | None
    error: str | None
    answer: str
    seconds: float


class DeliveryObject(Item):
    """One event for one endpoint."""

    object: Literal["webhook_delivery"] = "webhook_delivery"
    event_type: str
    payload: str
    state: Literal["pending", "delivered", "parked"]
    created_at: int
    delivered_at: int | None
    due_at: int | None = Field(description="When it is tried next.")
    tries: list[Try]

    @classmethod
    def of(cls, delivery: WebhookDelivery) -> "DeliveryObject":
        """The wire form of a row."""
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
