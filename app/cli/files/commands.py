"""`grouptune files`: upload data and read what the validation says about it."""

import hashlib
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from app.cli.connection import StateDir, connect
from app.cli.files.preview import show as show_preview
from app.cli.jobs.watcher import wait_for_file
from app.cli.ui import github
from app.cli.ui.console import err, fail, note, write_json, write_line, write_table
from app.cli.ui.exits import ExitCode
from app.client import Client, Json

app = typer.Typer(help="Training and validation files.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def upload(
    path: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="One JSON object a line, or Parquet.")
    ],
    purpose: Annotated[str, typer.Option(help="What the file is for; jobs take `fine-tune`.")] = "fine-tune",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the file is validated.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Upload a JSONL or Parquet file; prints its id. With --wait, a file with errors exits with code 1."""
    with connect(state_dir) as client:
        file = send(client, path, purpose)
        if wait:
            file = wait_for_file(client, file["id"])
        broken = file["status"] == "error"
        mark_rows(client, file["id"], path)
        if broken:
            fail(f"{path}: {file['status_details']}")
            note(f"All of them: grouptune files report {file['id']}")
    if as_json:
        write_json(file)
    else:
        write_line(file["id"])
    if broken:
        raise typer.Exit(ExitCode.error)


@app.command("list")
def list_files(
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 20,
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
    write_table(("id", "status", "size", "age", "name"), rows, empty="No files yet: grouptune files upload PATH")


@app.command()
def report(file_id: str, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Show what the validation found, line by line. A file with errors exits with code 1."""
    with connect(state_dir) as client:
        answer = client.get(f"/files/{file_id}/report")
    if as_json:
        write_json(answer)
    elif answer["report"] is None:
        note(f"{file_id} is not validated yet.")
    else:
        _show_report(answer)
    if answer["status"] == "error":
        raise typer.Exit(ExitCode.error)


@app.command()
def preview(
    file_id: str,
    model: Annotated[str | None, typer.Option(help="Whose tokenizer reads it; the first one that is there.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most so many rows.")] = 5,
    after: Annotated[int, typer.Option(min=0, help="Rows behind this line.")] = 0,
    max_length: Annotated[int | None, typer.Option(min=16, help="The job's: longer rows are marked.")] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Show rows as a model is trained on them: tokens, what is trained on, and how long rows are."""
    asked: dict[str, str | int] = {"limit": limit, "after": after}
    if model is not None:
        asked["model"] = model
    if max_length is not None:
        asked["max_length"] = max_length
    with connect(state_dir) as client:
        answer = client.get(f"/files/{file_id}/preview", **asked)
    if as_json:
        write_json(answer)
    else:
        show_preview(answer)


def send(client: Client, path: Path, purpose: str = "fine-tune", *, idempotency_key: str | None = None) -> Json:
    """Uploads a file behind a progress bar; returns it as the server has it.

    With a key, the same content is uploaded once.
    """
    if idempotency_key is not None:  # the server tells uploads apart by their length alone
        with path.open("rb") as stream:
            idempotency_key = f"{idempotency_key}:{hashlib.file_digest(stream, 'sha256').hexdigest()[:32]}"
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as bar:
        task = bar.add_task(f"Uploading {path.name}", total=path.stat().st_size)
        return client.upload(
            path,
            purpose=purpose,
            progress=lambda count: bar.advance(task, count),
            idempotency_key=idempotency_key,
        )


def mark_rows(client: Client, file_id: str, path: Path) -> None:
    """In a GitHub workflow: marks the rows of the local file `path` that the validation complained of."""
    if github.is_active() and (report := client.get(f"/files/{file_id}/report")["report"]):
        github.annotate(path, report["errors"], report.get("warnings", []))


def _show_report(answer: Json) -> None:
    report = answer["report"]
    errors = report.get("error_count", 0)
    # The summary of a broken file is its first error, which the table shows.
    note(f"{errors} error{'s' * (errors != 1)} in {report['rows']} rows:" if errors else str(answer["summary"]))
    found = [("error", one) for one in report["errors"]] + [("warning", one) for one in report.get("warnings", [])]
    found.sort(key=lambda pair: pair[1]["line"] or 0)
    rows = [(one["line"], kind, one["param"], one["message"]) for kind, one in found]
    if rows:
        write_table(("line", "level", "field", "message"), rows, empty="")
    hidden = errors - len(report["errors"])
    if hidden > 0:
        note(f"... and {hidden} more error{'s' * (hidden != 1)}.")


def human_bytes(count: float) -> str:
    """`1.4 MB`; powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def age(unix_seconds: int) -> str:
    """Time since then in its largest unit: `12s`, `5m`, `3h`, `40d`."""
    seconds = max(0, int(time.time()) - unix_seconds)
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def moment(unix_seconds: int) -> str:
    """Local date and time to the minute."""
    return datetime.fromtimestamp(unix_seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
