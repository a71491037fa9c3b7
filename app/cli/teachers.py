"""`grouptune teachers`: manages the project's API keys for teacher servers."""

from functools import partial
from typing import Annotated

import typer

from app.cli.connection import ask_for_key, connect
from app.cli.several import listed_label
from app.cli.ui.confirmation import Yes, confirm
from app.cli.ui.console import note, write_json, write_table
from app.cli.ui.formatting import age
from app.cli.ui.hints import suggest
from app.cli.ui.options import AsJson, StateDir
from app.client import path_segment

app = typer.Typer(help="Manage API keys for teacher servers.", no_args_is_help=True)


@app.command("set-key")
def set_key(
    base_url: Annotated[
        str, typer.Argument(help="Base URL, as in the job's teacher.base_url: https://api.example.com/v1.")
    ],
    state_dir: StateDir = None,
) -> None:
    """Store the API key for a teacher server. The command prompts for the key, or reads it from standard input."""
    key = ask_for_key()
    with connect(state_dir) as client:
        stored = client.post("/teacher_keys", {"base_url": base_url, "api_key": key})
    note(f"Stored {stored['id']}: the key {stored['api_key_hint']} is sent only to {stored['origin']}.")


@app.command("list")
def list_keys(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """List the stored keys; the keys themselves are not shown."""
    with connect(state_dir) as client:
        keys = list(client.pages("/teacher_keys"))
    if as_json:
        write_json(keys)
        return
    rows = [(key["id"], key["origin"], key["api_key_hint"], age(key["updated_at"])) for key in keys]
    write_table(
        ("id", "server", "key", "set"),
        rows,
        empty=f"No teacher keys. Store one with `{suggest('teachers set-key BASE_URL')}`.",
    )


@app.command()
def remove(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="Key id: tkey_...")],
    yes: Yes = False,
    state_dir: StateDir = None,
) -> None:
    """Delete a key."""
    with connect(state_dir) as client:
        describe = partial(listed_label, client, "/teacher_keys", "origin")
        confirm("Delete", [key_id], "teacher key", describe, is_confirmed=yes)
        client.delete(f"/teacher_keys/{path_segment(key_id)}")
    note(f"{key_id} is deleted.")
