"""`grouptune keys`: mint, list, rotate and revoke API keys. Needs a key with the scope `admin`."""

from typing import Annotated, Any

import typer

from app.cli.connection import StateDir, connect
from app.cli.files.commands import AsJson, age, moment
from app.cli.keys.exchange import exchange
from app.cli.ui.console import note, write_json, write_line, write_table
from app.cli.ui.options import seconds
from app.client import Json, path_segment

app = typer.Typer(help="API keys.", no_args_is_help=True)
app.command()(exchange)

KeyId = Annotated[str, typer.Argument(metavar="KEY", help="The id: the eight characters after gt_live_ in its text.")]
Project = Annotated[str | None, typer.Option(metavar="ID", help="A project's id; your own key's if absent.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(metavar="SCOPE", help="Such as files:read or jobs:*; repeat it. All but admin if absent."),
    ] = None,
    project: Project = None,
    expires: Annotated[
        Any, typer.Option(parser=seconds, metavar="DURATION", help="Ends after 12h, 90d ...; never if absent.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="A limit below the project's.")] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Mint a key and print its text, this once."""
    wanted = {
        "name": name,
        "scopes": scope,
        "project_id": project,
        "expires_in_seconds": None if expires is None else int(expires),
        "requests_per_minute": requests_per_minute,
    }
    with connect(state_dir) as client:
        key = client.post("/api_keys", {field: value for field, value in wanted.items() if value is not None})
    _print_new(key, as_json)


@app.command("list")
def list_keys(
    project: Annotated[str | None, typer.Option(metavar="ID", help="Only this project's.")] = None,
    ended: Annotated[bool, typer.Option("--all", help="Those that have ended, too.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """List keys."""
    only: dict[str, Any] = {} if project is None else {"project_id": project}
    with connect(state_dir) as client:
        keys = [key for key in client.pages("/api_keys", **only) if ended or key["status"] == "active"]
    if as_json:
        write_json(keys)
        return
    columns = ("id", "status", "used", "expires", "project", "name", "scopes")
    write_table(columns, [_row(key) for key in keys], empty="No keys.")


@app.command()
def revoke(key_id: KeyId, state_dir: StateDir = None) -> None:
    """Revoke a key at once and for good."""
    with connect(state_dir) as client:
        client.delete(f"/api_keys/{path_segment(key_id)}")
    note(f"{key_id} is revoked.")


@app.command()
def rotate(
    key_id: KeyId,
    grace: Annotated[
        Any, typer.Option(parser=seconds, metavar="DURATION", help="How long the old key is still good.")
    ] = "1d",
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Replace a key by one with the same name, scopes and project; prints the new text, this once."""
    with connect(state_dir) as client:
        key = client.post(f"/api_keys/{path_segment(key_id)}/rotate", {"grace_seconds": int(grace)})
    _print_new(key, as_json)


def _print_new(key: Json, as_json: bool) -> None:
    if as_json:
        write_json(key)
        return
    note(f"{key['id']} ({key['name']}) for project {key['project_id']}: {', '.join(key['scopes'])}. It is shown once.")
    write_line(key["key"])


def _row(key: Json) -> tuple[object, ...]:
    used = "never" if key["last_used_at"] is None else age(key["last_used_at"])
    expires = "never" if key["expires_at"] is None else moment(key["expires_at"])
    return key["id"], key["status"], used, expires, key["project_id"], key["name"], " ".join(key["scopes"])
