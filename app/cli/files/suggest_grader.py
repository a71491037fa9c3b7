"""`grouptune files suggest-grader`: prints the grader that fits a file's right answers."""

from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.ui.console import note, write_json
from app.cli.ui.exits import ExitCode
from app.cli.ui.options import AsJson, StateDir


def suggest_grader(
    file_id: Annotated[str, typer.Argument(metavar="FILE", help="File id: file-...")],
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Suggest a grader for the answers in a file. Prints its JSON, and why it fits. Exit with code 1 if none fits."""
    with connect(state_dir) as client:
        suggested = client.get(f"/files/{file_id}/suggested_grader")
    if as_json:
        write_json(suggested)
    else:
        note(suggested["reason"])
        if suggested["grader"] is not None:
            write_json(suggested["grader"])
    if suggested["grader"] is None:
        raise typer.Exit(ExitCode.error)
