"""`grouptune trusts`: manages the CI repositories whose ID tokens can be exchanged for keys. Needs scope `admin`."""

from functools import partial
from typing import Annotated, Any

import typer

from app.cli.connection import connect
from app.cli.several import listed_label
from app.cli.ui.confirmation import Yes, confirm
from app.cli.ui.console import note, write_json, write_line, write_table
from app.cli.ui.hints import suggest
from app.cli.ui.options import AsJson, StateDir, duration_seconds
from app.client import path_segment

app = typer.Typer(help="Let CI repositories get API keys without a secret.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name; the names of issued keys start with it.")],
    provider: Annotated[str, typer.Option(help="github or gitlab.")],
    repository_id: Annotated[str, typer.Option(help="Numeric id of the repository, not its name.")],
    audience: Annotated[str, typer.Option(help="Required audience of the tokens, such as the address of this server.")],
    ref: Annotated[str | None, typer.Option(help="Git ref, such as refs/heads/main. Default: every ref.")] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(metavar="SCOPE", help="Scope of issued keys. Repeatable. Default: files:*, jobs:*, models:read."),
    ] = None,
    issuer: Annotated[str | None, typer.Option(help="URL of a self-hosted GitHub or GitLab.")] = None,
    project: Annotated[
        str | None, typer.Option(metavar="ID", help="Project id. Default: the project of your own key.")
    ] = None,
    lasts: Annotated[
        Any, typer.Option(parser=duration_seconds, metavar="DURATION", help="Lifetime of issued keys. Default: 15m.")
    ] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Trust a repository and print the id of the trust."""
    body = {
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
        trust = client.post("/oidc/trusts", {field: value for field, value in body.items() if value is not None})
    if as_json:
        write_json(trust)
        return
    ref_text = trust["ref"] or "every ref"
    note(
        f"ID tokens of {provider} repository {repository_id} ({ref_text}) can be exchanged for keys of "
        f"{trust['project_id']}."
    )
    write_line(trust["id"])


@app.command("list")
def list_trusts(state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """List the trusted repositories."""
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
                trust["id"],
                trust["name"],
                trust["provider"],
                trust["repository_id"],
                trust["ref"] or "*",
                trust["audience"],
                trust["project_id"],
                " ".join(trust["scopes"]),
            )
            for trust in trusts
        ],
        empty=f"No trusted repositories. Add one with `{suggest('trusts create')}`.",
    )


@app.command()
def delete(
    trust_id: Annotated[str, typer.Argument(metavar="TRUST", help="Trust id: trust_...")],
    yes: Yes = False,
    state_dir: StateDir = None,
) -> None:
    """Delete a trust. Keys that were already issued stay valid until they expire."""
    with connect(state_dir) as client:
        confirm("Delete", [trust_id], "trust", partial(listed_label, client, "/oidc/trusts", "name"), is_confirmed=yes)
        client.delete(f"/oidc/trusts/{path_segment(trust_id)}")
    note(f"{trust_id} is deleted.")
