"""`grouptune files upload`, and uploads as part of other commands."""

import hashlib
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from app.cli.connection import connect
from app.cli.jobs.watcher import wait_for_file
from app.cli.ui import github
from app.cli.ui.console import err, fail, note, warn, write_json, write_line
from app.cli.ui.exits import ExitCode
from app.cli.ui.hints import suggest
from app.cli.ui.options import AsJson, StateDir
from app.client import ApiError, Client, Json


def upload(
    path: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, readable=True, help="JSONL (one JSON object per line) or Parquet file."
        ),
    ],
    purpose: Annotated[str, typer.Option(help="Purpose of the file; jobs need `fine-tune`.")] = "fine-tune",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the file is validated.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Upload a JSONL or Parquet file and print its id. With --wait, exit with code 1 if the file has errors.

    A file with the same content is not uploaded again.
    """
    with connect(state_dir) as client:
        file = stored_copy(client, path, purpose)
        if file is None:
            file = send(client, path, purpose)
        else:
            note(f"{path.name} is already uploaded as {file['id']}.")
        if wait:
            file = wait_for_file(client, file["id"])
        is_invalid = file["status"] == "error"
        annotate_rows(client, file["id"], path)
        if is_invalid:
            fail(f"{path}: {file['status_details']}")
            note("List all errors with: " + suggest(f"files report {file['id']}"))
        elif file.get("has_answers") is False:
            warn(f"{path}: {file['status_details']}")
    if as_json:
        write_json(file)
    else:
        write_line(file["id"])
    if is_invalid:
        raise typer.Exit(ExitCode.error)


def stored_copy(client: Client, path: Path, purpose: str = "fine-tune") -> Json | None:
    """Return the project's newest file with the same content; None if it has none, or the key may not list files."""
    digest = _sha256(path)
    try:
        newest = next(client.pages("/files", limit=1, sha256=digest, purpose=purpose), None)
    except ApiError as error:
        if error.http_status != HTTPStatus.FORBIDDEN:  # uploads need the scope files:write only
            raise
        return None
    # Servers of earlier versions ignore the filter, and show no digests.
    return newest if newest is not None and newest.get("sha256") == digest else None


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def send(client: Client, path: Path, purpose: str = "fine-tune", *, idempotency_key: str | None = None) -> Json:
    """Upload a file with a progress bar; returns the server's file object.

    With an idempotency key, the same content is uploaded only once.
    """
    if idempotency_key is not None:
        # The server compares repeated uploads by length only, so the key must depend on the content.
        idempotency_key = f"{idempotency_key}:{_sha256(path)[:32]}"
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


def annotate_rows(client: Client, file_id: str, path: Path) -> None:
    """In a GitHub workflow, annotate the rows of the local file `path` that have validation errors or warnings."""
    if github.is_active() and (report := client.get(f"/files/{file_id}/report")["report"]):
        github.annotate(path, report["errors"], report.get("warnings", []))
