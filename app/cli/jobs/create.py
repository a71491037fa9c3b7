"""`grouptune jobs create`: uploads the data files, creates the job and, with --wait, waits for it."""

import uuid
from pathlib import Path
from typing import Annotated, Final

import typer

from app.cli.connection import connect
from app.cli.files.upload import annotate_rows, send
from app.cli.jobs import job_file
from app.cli.jobs.rows import note_rows
from app.cli.jobs.wait import CancelOnInterrupt, Follow, Junit, Summary, Timeout, WaitOptions, print_job, wait
from app.cli.jobs.watcher import retry_until_available, wait_for_file
from app.cli.ui import github
from app.cli.ui.console import note
from app.cli.ui.options import AsJson, StateDir, TrainingFile, ValidationFile
from app.client import Client, Json
from app.core.errors import GrouptuneError

VALIDATION_SECONDS: Final = 60.0


class InvalidDataFile(GrouptuneError):
    """A data file of the job has validation errors."""

    code = "invalid_file"


def create(
    file: Annotated[
        Path,
        typer.Option(
            "--file", "-f", metavar="FILE", help="YAML or JSON file with the job.", exists=True, dir_okay=False
        ),
    ],
    training_file: TrainingFile = None,
    validation_file: ValidationFile = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate", metavar="GATE", help="Result that the job must reach, such as 'eval/accuracy >= 0.8'. Repeatable."
        ),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key",
            metavar="KEY",
            help="Reuse the job of an earlier run with this key instead of creating another.",
        ),
    ] = None,
    wait_for_end: Annotated[
        bool, typer.Option("--wait", help="Wait until the job ends and exit with its code (see `jobs wait`).")
    ] = False,
    follow_events: Follow = False,
    timeout: Timeout = None,
    cancel_on_interrupt: CancelOnInterrupt = False,
    junit: Junit = None,
    summary: Summary = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Create a job and print its id. Paths in `training_file` and `validation_file` are uploaded first."""
    should_wait = wait_for_end or follow_events
    if not should_wait and (junit or summary):
        raise typer.BadParameter("--junit and --summary report how the job ended. Add --wait.")
    body = job_file.read(file)
    body = job_file.with_files(body, training_file=training_file, validation_file=validation_file)
    body = job_file.with_gates(body, gate or [])
    with connect(state_dir) as client:
        if not should_wait:
            print_job(_create(client, file.parent, body, timeout, idempotency_key), as_json)
            return
        # With an idempotency key, a retry after a lost response finds the job instead of creating a second one.
        key = idempotency_key or uuid.uuid4().hex
        job = retry_until_available(lambda: _create(client, file.parent, body, timeout, key), report=note)
        note(f"Created {job['id']}")
        wait(client, job["id"], WaitOptions(follow_events, timeout, cancel_on_interrupt, junit, summary, as_json))


def _create(client: Client, directory: Path, body: Json, timeout: float | None, idempotency_key: str | None) -> Json:
    """Upload the files of the job, then create it; paths are relative to `directory`."""
    body = job_file.with_uploads(body, directory, lambda path: send_valid(client, path, timeout, idempotency_key))
    job = client.post("/fine_tuning/jobs", body, idempotency_key=idempotency_key)
    github.set_outputs(job_id=job["id"])
    note_rows(job)
    return job


def request_of(client: Client, file: Path, training_file: str | None, validation_file: str | None) -> Json:
    """Return the request of a job file, with its data files uploaded and validated."""
    body = job_file.with_files(job_file.read(file), training_file=training_file, validation_file=validation_file)
    return job_file.with_uploads(body, file.parent, lambda path: send_valid(client, path, None, None))


def send_valid(client: Client, path: Path, timeout: float | None, idempotency_key: str | None) -> str:
    """Upload a data file, wait for its validation (at most `VALIDATION_SECONDS`), and return its id.

    Without the wait, a race would decide whether an invalid file makes the request fail or the job fail later.
    """
    file = send(client, path, idempotency_key=idempotency_key)
    file = wait_for_file(client, file["id"], timeout_seconds=min(VALIDATION_SECONDS, timeout or VALIDATION_SECONDS))
    annotate_rows(client, file["id"], path)
    if file["status"] == "error":
        raise InvalidDataFile(
            f"{path}: {file['status_details']}\nList all errors with: grouptune files report {file['id']}"
        )
    return str(file["id"])
