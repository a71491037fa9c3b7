"""`grouptune keys`: creates, lists, rotates and revokes API keys. Needs a key with the scope `admin`."""

from functools import partial
from typing import Annotated, Any

import typer

from app.cli.connection import connect
from app.cli.keys.exchange import exchange
from app.cli.several import label_of
from app.cli.ui.confirmation import Yes, confirm
from app.cli.ui.console import note, write_json, write_line, write_table
from app.cli.ui.formatting import age, moment
from app.cli.ui.hints import suggest
from app.cli.ui.options import AsJson, StateDir, duration_seconds
from app.client import Json, path_segment

app = typer.Typer(help="Manage API keys.", no_args_is_help=True)
app.command()(exchange)

KeyId = Annotated[str, typer.Argument(metavar="KEY", help="Key id: the eight characters after gt_live_.")]
Project = Annotated[str | None, typer.Option(metavar="ID", help="Project id. Default: the project of your own key.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name that says what the key is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCOPE",
            help="Scope such as files:read, jobs:* or inference. Repeatable. Default: all except admin.",
        ),
    ] = None,
    project: Project = None,
    expires: Annotated[
        Any,
        typer.Option(parser=duration_seconds, metavar="DURATION", help="Lifetime: 12h, 90d ... Default: unlimited."),
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Rate limit, below the project's.")] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it. It is shown only once."""
    body = {
        "name": name,
        "scopes": scope,
        "project_id": project,
        "expires_in_seconds": None if expires is None else int(expires),
        "requests_per_minute": requests_per_minute,
    }
    with connect(state_dir) as client:
        key = client.post("/api_keys", {field: value for field, value in body.items() if value is not None})
    _print_new(key, as_json)


@app.command("list")
def list_keys(
    project: Annotated[str | None, typer.Option(metavar="ID", help="List only the keys of this project.")] = None,
    ended: Annotated[bool, typer.Option("--all", help="Include expired and revoked keys.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """List the API keys."""
    filters: dict[str, Any] = {} if project is None else {"project_id": project}
    with connect(state_dir) as client:
        keys = [key for key in client.pages("/api_keys", **filters) if ended or key["status"] == "active"]
    if as_json:
        write_json(keys)
        return
    columns = ("id", "status", "used", "expires", "project", "name", "scopes")
    write_table(
        columns, [_row(key) for key in keys], empty=f"No API keys. Create one with `{suggest('keys create NAME')}`."
    )


@app.command()
def revoke(key_id: KeyId, yes: Yes = False, state_dir: StateDir = None) -> None:
    """Revoke a key immediately and permanently."""
    with connect(state_dir) as client:
        confirm("Revoke", [key_id], "API key", partial(label_of, client, "/api_keys", "name"), is_confirmed=yes)
        client.delete(f"/api_keys/{path_segment(key_id)}")
    note(f"{key_id} is revoked.")


@app.command()
def rotate(
    key_id: KeyId,
    grace: Annotated[
        Any, typer.Option(parser=duration_seconds, metavar="DURATION", help="How long the old key stays valid.")
    ] = "1d",
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Replace a key by a new one. It has the same name, scopes and project, and is shown only once."""
    with connect(state_dir) as client:
        key = client.post(f"/api_keys/{path_segment(key_id)}/rotate", {"grace_seconds": int(grace)})
    _print_new(key, as_json)


def _print_new(key: Json, as_json: bool) -> None:
    if as_json:
        write_json(key)
        return
    scopes = ", ".join(key["scopes"])
    note(f"{key['id']} ({key['name']}) for project {key['project_id']}: {scopes}. It is shown only once.")
    write_line(key["key"])


def _row(key: Json) -> tuple[object, ...]:
    used = "never" if key["last_used_at"] is None else age(key["last_used_at"])
    expires = "never" if key["expires_at"] is None else moment(key["expires_at"])
    return key["id"], key["status"], used, expires, key["project_id"], key["name"], " ".join(key["scopes"])
