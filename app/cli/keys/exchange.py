"""`grouptune keys exchange`: a CI job's own identity, traded for an API key that lives a short while."""

import os
from datetime import UTC, datetime
from typing import Annotated, Final

import httpx
import typer

from app.cli.connection import url_from_environment
from app.cli.ui import github
from app.cli.ui.console import note, write_line
from app.cli.ui.exits import NoCredentials
from app.client import Client, ServerUnreachable

TOKEN: Final = "GROUPTUNE_ID_TOKEN"  # noqa: S105 - a name
TIMEOUT_SECONDS: Final = 30.0


def exchange(
    audience: Annotated[
        str | None,
        typer.Option(help="What the token is made for: as the server's trust says. GROUPTUNE_URL if absent."),
    ] = None,
) -> None:
    """Trade this CI job's ID token for a key; prints the key. GitHub: `permissions: {id-token: write}`.

    Elsewhere the token is in GROUPTUNE_ID_TOKEN (GitLab: `id_tokens`). The server must trust the repository: grouptune
    trusts create.
    """
    url = url_from_environment()
    if url is None:
        raise ServerUnreachable("Set GROUPTUNE_URL to the server's address.")
    token = os.environ.get(TOKEN, "").strip() or _from_github(audience or url.removesuffix("/v1"))
    with Client(url, None) as client:
        made = client.post("/oidc/exchange", {"token": token})
    github.hide(made["api_key"])
    until = datetime.fromtimestamp(made["expires_at"], UTC).astimezone().strftime("%H:%M")
    note(f"A key of {made['project_id']} until {until}: {', '.join(made['scopes'])}.")
    write_line(made["api_key"])


def _from_github(audience: str) -> str:
    url, key = (os.environ.get(f"ACTIONS_ID_TOKEN_REQUEST_{name}", "") for name in ("URL", "TOKEN"))
    if not url or not key:
        raise NoCredentials(
            f"There is no ID token: set {TOKEN}, or give a GitHub job `permissions: {{id-token: write}}`."
        )
    headers = {"authorization": f"Bearer {key}"}
    try:
        asked = httpx.URL(url).copy_set_param("audience", audience)
        answer = httpx.get(asked, headers=headers, timeout=TIMEOUT_SECONDS)
        return str(answer.raise_for_status().json()["value"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise ServerUnreachable(f"GitHub gave no ID token: {error}") from error
