"""Signing in to the dashboard, on the wire."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from app.auth.principal import Principal
from app.core.spec.frozen import Frozen


class SignIn(Frozen):
    """What a person signs in with: one of the two."""

    api_key: Annotated[str | None, Field(max_length=128)] = None
    code: Annotated[str | None, Field(max_length=128, description="Of a sign-in link.")] = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.api_key is None) == (self.code is None):
            raise ValueError("send either `api_key` or `code`")
        return self


class SessionObject(BaseModel):
    """Whether this browser is signed in, and as whom."""

    object: Literal["dashboard.session"] = "dashboard.session"
    signed_in: bool
    project_id: str | None = None
    project: str | None = Field(default=None, description="Its name.")
    key_id: str | None = None
    scopes: list[str] = Field(default=[], description="What the key behind the session may do.")

    @classmethod
    def of(cls, caller: Principal) -> "SessionObject":
        """The wire form of who is signed in."""
        return cls(
            signed_in=True,
            project_id=caller.project_id,
            project=caller.project_name,
            key_id=caller.key_id,
            scopes=sorted(caller.scopes),
        )


class SessionEnded(BaseModel):
    """This browser is signed out."""

    object: Literal["dashboard.session"] = "dashboard.session"
    deleted: Literal[True] = True


class LinkObject(BaseModel):
    """A link that signs one browser in, once."""

    object: Literal["dashboard.link"] = "dashboard.link"
    code: str = Field(
        description="Append it as `#code=...` to the address of any page of the dashboard; browsers send that part to "
        "nobody."
    )
    expires_at: int = Field(description="Unix seconds.")
