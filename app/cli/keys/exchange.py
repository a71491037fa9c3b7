"""`grouptune keys exchange`: exchanges the ID token of a CI job for a short-lived API key."""

import os
from typing import Annotated, Final

import httpx
import typer

from app.cli.connection import url_from_environment
from app.cli.ui import github
from app.cli.ui.console import note, write_line
from app.cli.ui.exits import NoCredentials
from app.cli.ui.formatting import time_of_day
from app.client import Client, ServerUnreachable

TOKEN: Final = "GROUPTUNE_ID_TOKEN"  # noqa: S105 - a name
TIMEOUT_SECONDS: Final = 30.0


def exchange(
    audience: Annotated[
        str | None,
        typer.Option(help="Audience of the token, as in the server's trust. Default: GROUPTUNE_URL."),
    ] = None,
) -> None:
    """Exchange a CI job's ID token for an API key. Prints the key.

    GitHub jobs need `permissions: {id-token: write}`. Elsewhere, set GROUPTUNE_ID_TOKEN (GitLab: `id_tokens`). The
    server must trust the repository: see `grouptune trusts create`.
    """
    url = url_from_environment()
    if url is None:
        raise ServerUnreachable("Set GROUPTUNE_URL to the server's address.")
    token = os.environ.get(TOKEN, "").strip() or _from_github(audience or url.removesuffix("/v1"))
    with Client(url, None) as client:
        issued = client.post("/oidc/exchange", {"token": token})
    github.hide(issued["api_key"])
    expires = time_of_day(issued["expires_at"])
    note(f"API key for {issued['project_id']}, valid until {expires}: {', '.join(issued['scopes'])}.")
    write_line(issued["api_key"])


def _from_github(audience: str) -> str:
    url, key = (os.environ.get(f"ACTIONS_ID_TOKEN_REQUEST_{name}", "") for name in ("URL", "TOKEN"))
    if not url or not key:
        raise NoCredentials(f"No ID token. Set {TOKEN}, or give the GitHub job `permissions: {{id-token: write}}`.")
    headers = {"authorization": f"Bearer {key}"}
    try:
        request_url = httpx.URL(url).copy_set_param("audience", audience)
        response = httpx.get(request_url, headers=headers, timeout=TIMEOUT_SECONDS)
        return str(response.raise_for_status().json()["value"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise ServerUnreachable(f"GitHub returned no ID token: {error}") from error
