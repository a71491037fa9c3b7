"""Bodies of `/v1/oidc`: trust in CI systems, and the exchange of their tokens for keys."""

from typing import Annotated, Literal

from pydantic import Field

from app.api.pagination import Item
from app.api.schemas.api_keys import Granted
from app.core.accounts.api_keys import NewKey
from app.core.accounts.oidc import GRANTED, ISSUERS, KEY_SECONDS, Provider, TrustTerms
from app.core.accounts.scopes import GRANTABLE, Scope, expand
from app.core.accounts.tables import OidcTrust
from app.core.errors import InvalidRequest
from app.core.spec.described import Described
from app.core.spec.frozen import Frozen

MAX_TOKEN = 16_384
MAX_KEY_SECONDS = 21_600


class CreateTrust(Frozen):
    """A repository whose tokens can be exchanged for keys."""

    name: Annotated[str, Field(min_length=1, max_length=64, description="Prefix of the names of its keys.")]
    provider: Annotated[Provider, Field(description="The CI system, which determines the claims of its tokens.")]
    repository_id: Annotated[
        str,
        Field(
            pattern=r"^[0-9]{1,32}$",
            max_length=32,
            description="The repository's numeric id (GitHub: `gh api repos/OWNER/NAME --jq .id`; GitLab: the project "
            "id). Not its name, which another owner can take over.",
        ),
    ]
    ref: Annotated[
        str | None,
        Field(pattern=r"^refs/.+", max_length=255, description="Such as `refs/heads/main`; every ref if absent."),
    ] = None
    audience: Annotated[str, Field(min_length=1, max_length=255, description="The audience that tokens must have.")]
    issuer: Annotated[
        str | None,
        Field(
            pattern=r"^https?://",
            max_length=255,
            description="For a self-hosted CI system; the provider's public issuer if absent.",
        ),
    ] = None
    project_id: Annotated[str | None, Field(max_length=64, description="The project of your own key if absent.")] = None
    scopes: Annotated[Granted, Field(description=f"Any of {', '.join(GRANTABLE)}, except admin.")] = GRANTED
    key_seconds: Annotated[
        int,
        Field(
            ge=60,
            le=MAX_KEY_SECONDS,
            description="How long a key is valid: at least as long as a CI step waits for its job.",
        ),
    ] = KEY_SECONDS

    def terms(self) -> TrustTerms:
        """Return the terms to store. Raises `InvalidRequest` for scopes that CI systems must not get."""
        if Scope.admin in expand(self.scopes):
            raise InvalidRequest("CI systems cannot get the scope 'admin'. Remove it.", param="scopes")
        return TrustTerms(
            provider=self.provider,
            issuer=(self.issuer or ISSUERS[self.provider]).rstrip("/"),
            audience=self.audience,
            repository_id=self.repository_id,
            ref=self.ref,
            granted=self.scopes,
            key_seconds=self.key_seconds,
        )


class TrustObject(Item):
    """A trusted repository."""

    object: Literal["oidc.trust"] = "oidc.trust"
    name: str
    """Prefix of the names of its keys."""
    project_id: str
    """The project of its keys."""
    provider: Provider
    """The CI system."""
    issuer: str
    """The issuer that tokens must have."""
    audience: str
    """The audience that tokens must have."""
    repository_id: str
    """The repository's numeric id."""
    ref: str | None
    """The ref that tokens must have; null for every ref."""
    scopes: list[str]
    """The scopes of its keys."""
    key_seconds: int
    """How long a key is valid."""
    created_by: str | None
    """Id of the key that created the trust; null if the operator did on the command line."""
    created_at: int = Field(description="Unix seconds.")

    @classmethod
    def of(cls, trust: OidcTrust) -> "TrustObject":
        """Return the wire form of a row."""
        columns = {name: getattr(trust, name) for name in cls.model_fields if name not in ("object", "created_at")}
        return cls.model_validate(columns | {"created_at": int(trust.created_at.timestamp())})


class TrustDeleted(Described):
    """The trust is deleted."""

    id: str
    """The trust."""
    object: Literal["oidc.trust"] = "oidc.trust"
    deleted: Literal[True] = True


class Exchange(Frozen):
    """A token to exchange."""

    token: Annotated[str, Field(min_length=1, max_length=MAX_TOKEN, description="The CI system's ID token (a JWT).")]


class ExchangedKey(Described):
    """A short-lived key."""

    object: Literal["oidc.key"] = "oidc.key"
    api_key: str = Field(description="Send it as `Authorization: Bearer ...`.")
    project_id: str
    """The project of the key."""
    scopes: list[str]
    """What the key may do."""
    expires_at: int = Field(description="Unix seconds.")

    @classmethod
    def of(cls, new_key: NewKey) -> "ExchangedKey":
        """Return the wire form of a new key."""
        ends = new_key.key.expires_at
        return cls(
            api_key=new_key.text,
            project_id=new_key.key.project_id,
            scopes=new_key.key.scopes,
            expires_at=int(ends.timestamp()) if ends else 0,
        )
