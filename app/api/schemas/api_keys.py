"""Bodies of `/v1/api_keys`."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from app.api.pagination import Item
from app.core.accounts.api_keys import PREFIX, NewKey
from app.core.accounts.limits import MAX_REQUESTS_PER_MINUTE
from app.core.accounts.scopes import DEFAULT, GRANTABLE, canonical
from app.core.accounts.tables import ApiKey
from app.core.spec.described import Described
from app.core.spec.frozen import Frozen

MAX_GRACE_SECONDS = 30 * 86_400
MAX_LIFE_SECONDS = 10 * 366 * 86_400
Status = Literal["active", "expired", "revoked"]
Grant = Annotated[str, StringConstraints(max_length=32)]
Granted = Annotated[tuple[Grant, ...], Field(min_length=1, max_length=32), AfterValidator(canonical)]


class CreateKey(Frozen):
    """A key to create."""

    name: Annotated[str, Field(min_length=1, max_length=64, description="What the key is for.")]
    project_id: Annotated[str | None, Field(max_length=64, description="The project of your own key if absent.")] = None
    scopes: Annotated[Granted, Field(description=f"Any of {', '.join(GRANTABLE)}; all except admin if absent.")] = (
        DEFAULT
    )
    expires_in_seconds: Annotated[
        int | None, Field(ge=60, le=MAX_LIFE_SECONDS, description="If absent, the key does not expire.")
    ] = None
    requests_per_minute: Annotated[
        int | None, Field(ge=1, le=MAX_REQUESTS_PER_MINUTE, description="A lower limit than the project's.")
    ] = None


class RotateKey(Frozen):
    """Options of a key rotation."""

    grace_seconds: Annotated[
        int, Field(ge=0, le=MAX_GRACE_SECONDS, description="How long the old key stays valid.")
    ] = 86_400


class KeyObject(Item):
    """An API key without its secret."""

    object: Literal["api_key"] = "api_key"
    name: str
    """What the key is for."""
    project_id: str
    """The project whose data the key can use."""
    redacted: str = Field(description="The key's text without its secret.")
    scopes: list[str]
    """What the key may do."""
    status: Status
    """`active`, `expired` or `revoked`."""
    requests_per_minute: int | None
    """The key's own rate limit; null if only the project's limit applies."""
    created_at: int = Field(description="Unix seconds.")
    created_by: str | None = Field(
        description="Id of the key that created it; null if the operator did on the command line."
    )
    expires_at: int | None
    """Unix seconds; null if the key does not expire."""
    last_used_at: int | None = Field(description="Accurate to the minute.")
    replaced_by: str | None = Field(description="Id of the key that replaced it by rotation.")
    revoked_at: int | None
    """Unix seconds; null if the key is not revoked."""

    @classmethod
    def of(cls, key: ApiKey) -> "KeyObject":
        """Return the wire form of a row."""
        return cls.model_validate(_fields(key))


class NewKeyObject(KeyObject):
    """A new key with its text, which no later response contains."""

    key: str = Field(description="Send it as `Authorization: Bearer ...`. Store it now: it is shown only once.")

    @classmethod
    def made(cls, new_key: NewKey) -> "NewKeyObject":
        """Return the wire form of a new key."""
        return cls.model_validate(_fields(new_key.key) | {"key": new_key.text})


class KeyRevoked(Described):
    """The key is revoked; its record is kept."""

    id: str
    """The key."""
    object: Literal["api_key"] = "api_key"
    deleted: Literal[True] = True


def _fields(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "project_id": key.project_id,
        "redacted": f"{PREFIX}{key.id}_...{key.last4}",
        "scopes": key.scopes,
        "status": _status(key),
        "requests_per_minute": key.requests_per_minute,
        "created_at": int(key.created_at.timestamp()),
        "created_by": key.created_by,
        "expires_at": _unix(key.expires_at),
        "last_used_at": _unix(key.last_used_at),
        "replaced_by": key.replaced_by,
        "revoked_at": _unix(key.revoked_at),
    }


def _unix(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


def _status(key: ApiKey) -> Status:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= datetime.now(UTC) else "active"
