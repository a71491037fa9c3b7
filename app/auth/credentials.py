"""The API key of a request."""

from collections.abc import Mapping


def key_of(headers: Mapping[str, str]) -> str | None:
    """Return the bearer token, or the header `api-key` of `AzureOpenAI` clients; None without either."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token
    return headers.get("api-key") or None
