"""Errors of requests to the engine, in OpenAI's envelope."""


class RequestError(Exception):
    """A request that the engine refuses or cannot finish."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry_seconds: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_seconds = retry_seconds
        """Value of `Retry-After`."""

    def envelope(self) -> dict[str, object]:
        """Return the body of the response."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "code": self.code, "param": self.param}}


def invalid(message: str, param: str | None, code: str = "invalid_value") -> RequestError:
    """Return an error with status 400."""
    return RequestError(400, code, message, param)
