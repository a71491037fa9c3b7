"""Bodies of `/v1/dashboard`."""

from collections.abc import Collection
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from app.auth.principal import Principal
from app.core.spec.described import Described
from app.core.spec.frozen import Frozen


class SignIn(Frozen):
    """Credentials for signing in: an API key or the code of a link."""

    api_key: Annotated[str | None, Field(max_length=128)] = None
    """An API key."""
    code: Annotated[str | None, Field(max_length=128, description="The code of a sign-in link.")] = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.api_key is None) == (self.code is None):
            raise ValueError("send either `api_key` or `code`")
        return self


class SessionObject(Described):
    """Whether this browser is signed in, and with which key and project."""

    object: Literal["dashboard.session"] = "dashboard.session"
    signed_in: bool
    """Whether the browser is signed in."""
    project_id: str | None = None
    """The project of the session's key; null if signed out."""
    project: str | None = Field(default=None, description="Its name.")
    key_id: str | None = None
    """The session's key; null if signed out."""
    scopes: list[str] = Field(default=[], description="Scopes of the session's key.")
    has_engine: bool = Field(default=False, description="Whether the server has an engine that answers inference.")
    trackers: list[str] = Field(default=[], description="Trackers that jobs can use: allowed, and on a worker.")

    @classmethod
    def of(cls, caller: Principal, *, has_engine: bool, trackers: Collection[str]) -> "SessionObject":
        """Return the wire form of a signed-in caller."""
        return cls(
            signed_in=True,
            project_id=caller.project_id,
            project=caller.project_name,
            key_id=caller.key_id,
            scopes=sorted(caller.scopes),
            has_engine=has_engine,
            trackers=sorted(trackers),
        )


class SessionEnded(Described):
    """This browser is signed out."""

    object: Literal["dashboard.session"] = "dashboard.session"
    deleted: Literal[True] = True


class LinkObject(Described):
    """A link that signs one browser in, once."""

    object: Literal["dashboard.link"] = "dashboard.link"
    code: str = Field(
        description="Append it as `#code=...` to the address of any dashboard page; browsers do not send that part to "
        "a server."
    )
    expires_at: int = Field(description="Unix seconds.")
