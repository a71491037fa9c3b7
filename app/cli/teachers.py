"""`grouptune teachers`: the project's keys for the servers that jobs ask as teachers."""

import sys
from typing import Annotated

import typer

from app.cli.connection import StateDir, connect
from app.cli.files.commands import AsJson, age
from app.cli.ui.console import note, write_json, write_table
from app.client import path_segment

app = typer.Typer(help="Keys for teachers.", no_args_is_help=True)


@app.command("set-key")
def set_key(
    base_url: Annotated[str, typer.Argument(help="As in the job's teacher.base_url: https://api.example.com/v1.")],
    state_dir: StateDir = None,
) -> None:
    """Store the key for a server. It is asked for, or read from standard input."""
    key = typer.prompt("API key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline().strip()
    with connect(state_dir) as client:
        made = client.post("/teacher_keys", {"base_url": base_url, "api_key": key})
    note(f"{made['id']}: the key {made['api_key_hint']} goes to {made['origin']} alone.")


@app.command("list")
def list_keys(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """List keys, without their text."""
    with connect(state_dir) as client:
        keys = list(client.pages("/teacher_keys"))
    if as_json:
        write_json(keys)
        return
    rows = [(key["id"], key["origin"], key["api_key_hint"], age(key["updated_at"])) for key in keys]
    write_table(("id", "server", "key", "set"), rows, empty="No keys.")


@app.command()
def remove(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="tkey_...")],
    state_dir: StateDir = None,
) -> None:
    """Forget a key."""
    with connect(state_dir) as client:
        client.delete(f"/teacher_keys/{path_segment(key_id)}")
    note(f"{key_id} is forgotten.")
