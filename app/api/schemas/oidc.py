"""Trust in CI systems, and the trade of their tokens for keys, on the wire."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.api.pagination import Item
from app.api.schemas.api_keys import Granted
from app.core.accounts.api_keys import NewKey
from app.core.accounts.oidc import GRANTED, ISSUERS, KEY_SECONDS, Provider, Terms
from app.core.accounts.scopes import GRANTABLE, Scope, expand
from app.core.accounts.tables import OidcTrust
from app.core.errors import InvalidRequest
from app.core.spec.frozen import Frozen

MAX_TOKEN = 16_384
MAX_KEY_SECONDS = 21_600


class CreateTrust(Frozen):
    """Whose tokens are traded for keys."""

    name: Annotated[str, Field(min_length=1, max_length=64, description="Begins the names of its keys.")]
    provider: Annotated[Provider, Field(description="Whose claims its tokens carry.")]
    repository_id: Annotated[
        str,
        Field(
            pattern=r"^[0-9]{1,32}$",
            max_length=32,
            description="The repository's number (GitHub: `gh api repos/OWNER/NAME --jq .id`; GitLab: project's id). "
            "Not its name, which can be given to somebody else.",
        ),
    ]
    ref: Annotated[
        str | None,
        Field(pattern=r"^refs/.+", max_length=255, description="Such as `refs/heads/main`; every ref if absent."),
    ] = None
    audience: Annotated[str, Field(min_length=1, max_length=255, description="What the token must be made for.")]
    issuer: Annotated[
        str | None,
        Field(pattern=r"^https?://", max_length=255, description="For servers of your own; the public one if absent."),
    ] = None
    project_id: Annotated[str | None, Field(max_length=64, description="Your own key's project if absent.")] = None
    scopes: Annotated[Granted, Field(description=f"Some of {', '.join(GRANTABLE)}, but not admin.")] = GRANTED
    key_seconds: Annotated[
        int, Field(ge=60, le=MAX_KEY_SECONDS, description="How long a key lives: as long as a step waits for its job.")
    ] = KEY_SECONDS

    def terms(self) -> Terms:
        """What is stored. Raises `InvalidRequest` for scopes that no CI system gets."""
        if Scope.admin in expand(self.scopes):
            raise InvalidRequest("No CI system gets the scope 'admin'; leave it out.", param="scopes")
        return Terms(
            provider=self.provider,
            issuer=(self.issuer or ISSUERS[self.provider]).rstrip("/"),
            audience=self.audience,
            repository_id=self.repository_id,
            ref=self.ref,
            granted=self.scopes,
            key_seconds=self.key_seconds,
        )


class TrustObject(Item):
    """A repository whose CI system is trusted."""

    object: Literal["oidc.trust"] = "oidc.trust"
    name: str
    project_id: str
    provider: Provider
    issuer: str
    audience: str
    repository_id: str
    ref: str | None
    scopes: list[str]
    key_seconds: int
    created_by: str | None
    created_at: int = Field(description="Unix seconds.")

    @classmethod
    def of(cls, trust: OidcTrust) -> "TrustObject":
        """The wire form of a row."""
        columns = {name: getattr(trust, name) for name in cls.model_fields if name not in ("object", "created_at")}
        return cls.model_validate(columns | {"created_at": int(trust.created_at.timestamp())})


class TrustDeleted(BaseModel):
    """It is trusted no longer."""

    id: str
    object: Literal["oidc.trust"] = "oidc.trust"
    deleted: Literal[True] = True


class Exchange(Frozen):
    """A token to trade."""

    token: Annotated[str, Field(min_length=1, max_length=MAX_TOKEN, description="The CI system's ID token (a JWT).")]


class ExchangedKey(BaseModel):
    """A key for a short while."""

    object: Literal["oidc.key"] = "oidc.key"
    api_key: str = Field(description="Send it as `Authorization: Bearer ...`.")
    project_id: str
    scopes: list[str]
    expires_at: int = Field(description="Unix seconds.")

    @classmethod
    def of(cls, made: NewKey) -> "ExchangedKey":
        """The wire form of a key that was just made."""
        ends = made.key.expires_at
        return cls(
            api_key=made.text,
            project_id=made.key.project_id,
            scopes=made.key.scopes,
            expires_at=int(ends.timestamp()) if ends else 0,
        )
