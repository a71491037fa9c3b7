"""`grouptune jobs create`: uploads the data, creates the job, and waits for it when asked to."""

import uuid
from pathlib import Path
from typing import Annotated, Final

import typer

from app.cli.connection import StateDir, connect
from app.cli.files.commands import AsJson, mark_rows, send
from app.cli.jobs import job_file
from app.cli.jobs.wait import CancelOnInterrupt, Follow, Junit, Summary, Timeout, Waiting, print_job, wait
from app.cli.jobs.watcher import patiently, wait_for_file
from app.cli.ui import github
from app.cli.ui.console import note
from app.client import Client, Json
from app.core.errors import GrouptuneError

VALIDATION_SECONDS: Final = 60.0


class BrokenFile(GrouptuneError):
    """A data file that was to be trained on has errors."""

    code = "invalid_file"


def create(
    file: Annotated[
        Path,
        typer.Option("--file", "-f", metavar="FILE", help="The job as YAML or JSON.", exists=True, dir_okay=False),
    ],
    training_file: Annotated[
        str | None, typer.Option("--training-file", metavar="PATH", help="In place of the job's own; path or id.")
    ] = None,
    validation_file: Annotated[
        str | None, typer.Option("--validation-file", metavar="PATH", help="In place of the job's own; path or id.")
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option("--gate", metavar="GATE", help="What the job must reach: 'eval/accuracy >= 0.8'; repeat it."),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option("--idempotency-key", metavar="KEY", help="A second run with it attaches to the same job."),
    ] = None,
    wait_for_end: Annotated[bool, typer.Option("--wait", help="Wait for the end; the exit code tells it.")] = False,
    follow_events: Follow = False,
    timeout: Timeout = None,
    cancel_on_interrupt: CancelOnInterrupt = False,
    junit: Junit = None,
    summary: Summary = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Create a job; prints its id. `training_file` and `validation_file` may be paths: they are uploaded first."""
    waits = wait_for_end or follow_events
    if not waits and (junit or summary):
        raise typer.BadParameter("--junit and --summary tell how the job ends: add --wait.")
    body = job_file.read(file)
    body = job_file.with_files(body, training_file=training_file, validation_file=validation_file)
    body = job_file.with_gates(body, gate or [])
    with connect(state_dir) as client:
        if not waits:
            print_job(_create(client, file.parent, body, timeout, idempotency_key), as_json)
            return
        # With a key of its own, what was begun before the server went away is found and not begun twice.
        key = idempotency_key or uuid.uuid4().hex
        job = patiently(lambda: _create(client, file.parent, body, timeout, key), tell=note)
        note(f"Created {job['id']}")
        wait(client, job["id"], Waiting(follow_events, timeout, cancel_on_interrupt, junit, summary, as_json))


def _create(client: Client, directory: Path, body: Json, timeout: float | None, idempotency_key: str | None) -> Json:
    """The job, its files uploaded before; paths are relative to `directory`."""
    whole = job_file.with_uploads(body, directory, lambda path: send_valid(client, path, timeout, idempotency_key))
    job = client.post("/fine_tuning/jobs", whole, idempotency_key=idempotency_key)
    github.set_outputs(job_id=job["id"])
    return job


def send_valid(client: Client, path: Path, timeout: float | None, idempotency_key: str | None) -> str:
    """Uploads a data file; returns its id once the server has validated it, or has taken long over that.

    Otherwise it would depend on who is faster whether the server refuses a job with a broken file or fails it later.
    """
    file = send(client, path, idempotency_key=idempotency_key)
    file = wait_for_file(client, file["id"], timeout_seconds=min(VALIDATION_SECONDS, timeout or VALIDATION_SECONDS))
    mark_rows(client, file["id"], path)
    if file["status"] == "error":
        raise BrokenFile(f"{path}: {file['status_details']}\nAll of them: grouptune files report {file['id']}")
    return str(file["id"])
