"""OpenAI's error envelope."""

from pydantic import BaseModel, Field


class ErrorBody(BaseModel):
    """What went wrong and what to do about it."""

    message: str = Field(description="A sentence for the person who must act.")
    type: str = Field(description="`invalid_request_error` for the client's errors, `server_error` for the server's.")
    param: str | None = Field(description="Dotted path of the field that is wrong, such as `method.gft.group.self`.")
    code: str | None = Field(description="A stable word for programs; docs/errors.md lists them.")


class ErrorEnvelope(BaseModel):
    """The body of every answer whose status is 400 or more."""

    error: ErrorBody
