"""The errors of the installation, each with a code. The API returns them in OpenAI's envelope; the CLI prints them."""

from typing import ClassVar


class GrouptuneError(Exception):
    """Something went wrong."""

    status: ClassVar[int] = 500
    type: str = "server_error"
    code: str | None = None
    retry_after_seconds: float | None = None
    """The wait that the client is asked for, if another request may succeed."""
    public_message: str | None = None
    """What clients of the API get instead of `message`, where that quotes addresses or paths for the operator."""
    retry_helps: ClassVar[bool] = True
    """False keeps OpenAI's clients from retrying a 429 or 5xx."""

    def __init__(self, message: str | None = None, *, param: str | None = None, code: str | None = None) -> None:
        """`message` says what is wrong and how to fix it; it defaults to the class's docstring.

        `param` is the dotted path of the invalid field, `code` a stable word for programs.
        """
        super().__init__(message or (type(self).__doc__ or "").strip())
        self.param = param
        if code is not None:
            self.code = code

    @property
    def message(self) -> str:
        return str(self.args[0])

    @property
    def message_for_clients(self) -> str:
        return self.public_message or self.message


class InvalidRequest(GrouptuneError):
    """The request is not valid."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class AuthenticationFailed(GrouptuneError):
    """Send your API key in the header `Authorization: Bearer <key>`, or in `api-key`."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class PermissionDenied(GrouptuneError):
    """This API key lacks the scope that the request needs."""

    status = 403
    type = "invalid_request_error"
    code = "insufficient_scope"


class NotFound(GrouptuneError):
    """The requested object does not exist in this project."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class PayloadTooLarge(GrouptuneError):
    """The request body is larger than this server accepts."""

    status = 413
    type = "invalid_request_error"
    code = "payload_too_large"


class RateLimited(GrouptuneError):
    """Too many requests; wait as long as the header `retry-after` says."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retry_after_seconds: float | None = 2.0


class QuotaExceeded(GrouptuneError):
    """The project has used up one of its limits. Waiting may not help, so clients should not retry."""

    status = 429
    type = "insufficient_quota"
    code = "quota_exceeded"
    retry_helps = False


class DatabaseUnavailable(GrouptuneError):
    """The database is unavailable. Try again in a few seconds."""

    status = 503
    type = "server_error"
    code = "database_unavailable"


class Overloaded(DatabaseUnavailable):
    """The server is busy; try again in a few seconds."""

    code = "overloaded"


class Unstorable(InvalidRequest):
    """The request contains a character that cannot be stored (NUL or a lone surrogate)."""


class BadSetup(GrouptuneError):
    """The installation is not configured correctly."""

    code = "bad_setup"


class LostLease(GrouptuneError):
    """The job's lease belongs to another attempt now; this one must stop and write nothing."""

    code = "lost_lease"
