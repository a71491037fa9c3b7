"""OpenAI's error envelope."""

from pydantic import Field

from app.core.spec.described import Described


class ErrorBody(Described):
    """What is wrong and how to fix it."""

    message: str = Field(description="What is wrong and how to fix it, for people.")
    type: str = Field(
        description="`invalid_request_error`: change the request. `rate_limit_error`: wait. `insufficient_quota`: the "
        "project has used up a limit. `server_error`: the server failed."
    )
    param: str | None = Field(description="Dotted path of the wrong field, such as `method.gft.group.self`.")
    code: str | None = Field(description="Stable identifier for programs; docs/errors.md lists all codes.")


class ErrorEnvelope(Described):
    """The body of every response with a status of 400 or more."""

    error: ErrorBody
    """The error."""
