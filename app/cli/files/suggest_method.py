"""`grouptune files suggest-method`: prints the methods that fit a file, and why."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.jobs import job_file
from app.cli.ui.console import note, write_json, write_table
from app.cli.ui.options import AsJson, StateDir


def suggest_method(
    file_id: Annotated[str, typer.Argument(metavar="FILE", help="File id: file-...")],
    grader: Annotated[
        Path | None,
        typer.Option(
            "--grader",
            metavar="PATH",
            help="JSON or YAML file with a grader. Default: the one that is suggested for the file.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    remote: Annotated[
        bool, typer.Option("--remote", help="Also call judges and reward servers, one request per answer.")
    ] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Suggest methods for a file, best first."""
    body = {"remote": remote} | ({} if grader is None else {"grader": job_file.read(grader, what="grader")})
    with connect(state_dir) as client:
        suggested = client.post(f"/files/{file_id}/suggested_method", body)
    if as_json:
        write_json(suggested)
        return
    rows = [
        (one["method"], "graded" if one["demonstrations"] == "graded" else "", one["reason"])
        for one in suggested["suggestions"]
    ]
    write_table(("method", "demonstrations", "reason"), rows, empty="The file has no rows.")
    if suggested["graded"] is not None:
        note(f"Graded: {suggested['graded']}.")
