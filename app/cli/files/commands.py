"""`grouptune files`: `list` and `report`. The other commands have modules of their own."""

from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.files.convert import convert
from app.cli.files.generate import generate
from app.cli.files.lint import lint
from app.cli.files.preview import preview
from app.cli.files.pull import pull
from app.cli.files.suggest_grader import suggest_grader
from app.cli.files.suggest_method import suggest_method
from app.cli.files.upload import upload
from app.cli.several import delete_each
from app.cli.ui.confirmation import Yes
from app.cli.ui.console import note, write_findings, write_json, write_table
from app.cli.ui.exits import ExitCode
from app.cli.ui.formatting import age, human_bytes
from app.cli.ui.hints import suggest
from app.cli.ui.options import AsJson, StateDir
from app.client import Json
from app.core.plurals import plural

app = typer.Typer(help="Manage training and validation files.", no_args_is_help=True)
app.command()(upload)


@app.command("list")
def list_files(
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of files, newest first.")] = 20,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """List the uploaded files."""
    with connect(state_dir) as client:
        files = list(client.pages("/files", limit=limit))
    if as_json:
        write_json(files)
        return
    rows = [
        (file["id"], file["status"], human_bytes(file["bytes"]), age(file["created_at"]), file["filename"])
        for file in files
    ]
    empty = f"No files yet. Upload one with `{suggest('files upload PATH')}`."
    write_table(("id", "status", "size", "age", "name"), rows, empty=empty)


@app.command()
def report(
    file_id: Annotated[str, typer.Argument(metavar="FILE", help="File id: file-...")],
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Show a file's validation errors and warnings by line. Exit with code 1 if the file has errors."""
    with connect(state_dir) as client:
        answer = client.get(f"/files/{file_id}/report")
    if as_json:
        write_json(answer)
    elif answer["report"] is None:
        note(f"{file_id} has not been validated yet.")
    else:
        _show_report(answer)
    if answer["status"] == "error":
        raise typer.Exit(ExitCode.error)


app.command()(preview)
app.command("suggest-grader")(suggest_grader)
app.command("suggest-method")(suggest_method)
app.command()(lint)
app.command()(convert)
app.command()(generate)
app.command()(pull)


@app.command()
def delete(
    file_ids: Annotated[list[str], typer.Argument(metavar="FILE...", help="File ids: file-...")],
    yes: Yes = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Delete files that no unfinished job uses."""
    with connect(state_dir) as client:
        delete_each(client, "/files", file_ids, "file", label="filename", is_confirmed=yes, as_json=as_json)


def _show_report(answer: Json) -> None:
    report = answer["report"]
    errors = report.get("error_count", 0)
    # The summary of an invalid file is its first error, which the table shows anyway.
    note(f"{plural(errors, 'error')} in {plural(report['rows'], 'row')}:" if errors else str(answer["summary"]))
    write_findings(report["errors"], report.get("warnings", []), error_count=errors)
