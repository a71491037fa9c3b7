"""`grouptune trusts`: whose CI tokens are traded for keys. Needs a key with the scope `admin`."""

from typing import Annotated, Any

import typer

from app.cli.connection import StateDir, connect
from app.cli.files.commands import AsJson
from app.cli.ui.console import note, write_json, write_line, write_table
from app.cli.ui.options import seconds
from app.client import path_segment

app = typer.Typer(help="CI systems that get keys without secrets.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Begins the names of its keys.")],
    provider: Annotated[str, typer.Option(help="github or gitlab.")],
    repository_id: Annotated[str, typer.Option(help="The repository's number, not its name.")],
    audience: Annotated[str, typer.Option(help="What its tokens must be made for, such as this server's address.")],
    ref: Annotated[str | None, typer.Option(help="Such as refs/heads/main; every ref if absent.")] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(metavar="SCOPE", help="Repeat it. files:*, jobs:* and models:read if absent."),
    ] = None,
    issuer: Annotated[str | None, typer.Option(help="For a GitHub or GitLab server of your own.")] = None,
    project: Annotated[str | None, typer.Option(metavar="ID", help="Your own key's if absent.")] = None,
    lasts: Annotated[
        Any, typer.Option(parser=seconds, metavar="DURATION", help="How long a key lives; 15m if absent.")
    ] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Trust a repository; prints the trust's id."""
    wanted = {
        "name": name,
        "provider": provider,
        "repository_id": repository_id,
        "audience": audience,
        "ref": ref,
        "scopes": scope,
        "issuer": issuer,
        "project_id": project,
        "key_seconds": None if lasts is None else int(lasts),
    }
    with connect(state_dir) as client:
        trust = client.post("/oidc/trusts", {field: value for field, value in wanted.items() if value is not None})
    if as_json:
        write_json(trust)
        return
    where = trust["ref"] or "every ref"
    note(f"Tokens of {provider} repository {repository_id} ({where}) are traded for keys of {trust['project_id']}.")
    write_line(trust["id"])


@app.command("list")
def list_trusts(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """List what is trusted."""
    with connect(state_dir) as client:
        trusts = list(client.pages("/oidc/trusts"))
    if as_json:
        write_json(trusts)
        return
    columns = ("id", "name", "provider", "repository", "ref", "audience", "project", "scopes")
    write_table(
        columns,
        [
            (
                one["id"],
                one["name"],
                one["provider"],
                one["repository_id"],
                one["ref"] or "*",
                one["audience"],
                one["project_id"],
                " ".join(one["scopes"]),
            )
            for one in trusts
        ],
        empty="No CI system is trusted.",
    )


@app.command()
def delete(
    trust_id: Annotated[str, typer.Argument(metavar="TRUST", help="Its id, trust_...")], state_dir: StateDir = None
) -> None:
    """Trust it no longer. Keys that it got live out their time."""
    with connect(state_dir) as client:
        client.delete(f"/oidc/trusts/{path_segment(trust_id)}")
    note(f"{trust_id} is gone.")
