"""`grouptune models export`, `push` and `exports`: finished artefacts of fine-tuned models, made by the server."""

import hashlib
import os
import tarfile
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from app.cli.connection import connect
from app.cli.jobs.watcher import retry_until_available
from app.cli.several import label_of
from app.cli.ui.confirmation import Yes, confirm
from app.cli.ui.console import err, note, write_json, write_line, write_table
from app.cli.ui.exits import ExitCode
from app.cli.ui.formatting import age, human_bytes
from app.cli.ui.hints import suggest
from app.cli.ui.options import AsJson, StateDir
from app.client import Client, Json, path_segment
from app.core.errors import GrouptuneError

POLL_SECONDS: Final = 0.5
HUB_TOKEN: Final = "HF_TOKEN"  # noqa: S105 - the name of the hub client's own variable
_UNFINISHED: Final = ("queued", "running")

Name = Annotated[str, typer.Argument(metavar="MODEL", help="Fine-tuned model, checkpoint or alias.")]
ExportId = Annotated[str, typer.Argument(metavar="EXPORT", help="Export id: export-...")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until the export ends.")]


class ExportFailed(GrouptuneError):
    """The export failed, or its archive could not be stored."""

    code = "export_failed"


def export_model(
    name: Name,
    format: Annotated[str, typer.Option("--format", help="Format, such as merged.")] = "merged",
    quantization: Annotated[
        str | None, typer.Option("--quantization", help="Number format of the weights, if the format has several.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="Wait, then download: into a .tar, or a new directory."),
    ] = None,
    wait: Wait = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Export a fine-tuned model, merged or as a GGUF file.

    The server creates the export. Prints its id, or with --output where it was stored.
    """
    if output is not None and output.exists():
        raise ExportFailed(f"{output} exists already. Name a new one.")
    with connect(state_dir) as client:
        body = {"format": format} | ({} if quantization is None else {"quantization": quantization})
        export = _order(client, name, body, wait=wait or output is not None)
        if output is not None:
            _fetch(client, export, output)
    _print(export, str(output or export["id"]), as_json)


def push_model(
    name: Name,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub; created if missing.")],
    public: Annotated[
        bool, typer.Option("--public", help="The repository is public. By default it is private.")
    ] = False,
    merged: Annotated[bool, typer.Option("--merged", help="Push the merged model instead of the adapter.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait until the push ends.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Push a fine-tuned model to a Hugging Face hub. Prints its address there.

    The hub's token is read from HF_TOKEN; without it the server uses its own, if the operator has set one.
    """
    body: Json = {"format": "push", "repository": repository, "private": not public, "merged": merged}
    if token := os.environ.get(HUB_TOKEN):
        body["hub_token"] = token
    with connect(state_dir) as client:
        try:
            export = _order(client, name, body, wait=not no_wait)
        except GrouptuneError as error:
            if error.code != "hub_token_missing":
                raise
            raise ExportFailed(f"Set {HUB_TOKEN} to a hub token. The server has no token of its own.") from None
    _print(export, export["id"] if no_wait else export["manifest"]["repository"]["url"], as_json)


def list_exports(name: Name, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """List the exports of a fine-tuned model, newest first."""
    with connect(state_dir) as client:
        exports = list(client.pages(_path(name)))
    if as_json:
        write_json(exports)
        return
    rows = [
        (
            export["id"],
            _kind(export),
            _state(export),
            "-" if export["bytes"] is None else human_bytes(export["bytes"]),
            age(export["created_at"]),
        )
        for export in exports
    ]
    write_table(("export", "format", "state", "size", "age"), rows, empty="No exports.")


def cancel_export(export_id: ExportId, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Cancel an unfinished export."""
    with connect(state_dir) as client:
        export = client.post(f"/exports/{path_segment(export_id)}/cancel")
    note(f"{export['id']} is {export['status']}.")
    _print(export, export["id"], as_json)


def delete_export(export_id: ExportId, yes: Yes = False, state_dir: StateDir = None) -> None:
    """Delete an export and its archive.

    An unfinished export is cancelled.
    """
    with connect(state_dir) as client:
        confirm("Delete", [export_id], "export", partial(label_of, client, "/exports", "model"), is_confirmed=yes)
        client.delete(f"/exports/{path_segment(export_id)}")
    note(f"{export_id} is deleted.")


def _order(client: Client, name: str, body: Json, *, wait: bool) -> Json:
    """Order an export; return it, with `wait` once it has succeeded. Exits with the code of a failed one."""
    export = client.post(_path(name), body)
    if not wait:
        return export
    try:
        export = _wait(client, export)
    except KeyboardInterrupt:
        note(f"The export continues on the server. Its state: {suggest(f'models exports {name}')}")
        raise
    if export["status"] == "cancelled":
        note(f"{export['id']} was cancelled.")
        raise typer.Exit(ExitCode.job_cancelled)
    if export["status"] == "failed":
        raise ExportFailed(f"{name} could not be exported: {export['error']['message']}")
    for line in export["manifest"]["notes"]:
        note(line)
    return export


def _wait(client: Client, export: Json) -> Json:
    """Show the progress of an export until it ends; return it."""
    path = f"/exports/{export['id']}"
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        while export["status"] in _UNFINISHED:
            stage = export["stage"] or ("Waiting for a worker" if export["status"] == "queued" else "Starting")
            bar.update(task, description=stage, completed=export["progress"])
            time.sleep(POLL_SECONDS)
            export = retry_until_available(lambda: client.get(path), report=note)
    return export


def _fetch(client: Client, export: Json, output: Path) -> None:
    """Download the archive to `output`, or unpack it there; the target is complete or does not exist."""
    output.parent.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with tempfile.TemporaryDirectory(prefix=".grouptune-", dir=output.parent) as temporary:
        archive = Path(temporary) / "archive.tar"
        with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as bar:
            task = bar.add_task("Downloading", total=export["bytes"])
            client.download(
                f"/exports/{export['id']}/content", archive, progress=lambda count: bar.advance(task, count)
            )
        with archive.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != export["sha256"]:
                raise ExportFailed("The archive was damaged during the download. Try again.")
        if output.suffix == ".tar":
            archive.rename(output)
            return
        unpacked = Path(temporary) / "unpacked"
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
        unpacked.rename(output)


def _print(export: Json, line: str, as_json: bool) -> None:
    if as_json:
        write_json(export)
    else:
        write_line(line)


def _path(name: str) -> str:
    return f"/models/{path_segment(name)}/exports"


def _kind(export: Json) -> str:
    return " ".join(filter(None, (export["format"], export["quantization"], export["repository"])))


def _state(export: Json) -> str:
    return f"{export['status']} {export['progress']:.0%}" if export["status"] == "running" else str(export["status"])
