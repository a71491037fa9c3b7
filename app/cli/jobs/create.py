"""`grouptune jobs create`: creates a job and, with --wait, waits for it."""

import uuid
from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.jobs import job_file
from app.cli.jobs.data_files import with_stored_files
from app.cli.jobs.job_options import (
    Control,
    Demonstrations,
    Gpus,
    GraderOption,
    JobFile,
    Method,
    Model,
    Nodes,
    Settings,
    Suffix,
    TestFile,
    TrainingFile,
    ValidationFile,
    job_of,
)
from app.cli.jobs.rows import note_rows
from app.cli.jobs.wait import CancelOnInterrupt, Follow, Junit, Summary, Timeout, WaitOptions, print_job, wait
from app.cli.jobs.watcher import retry_until_available
from app.cli.ui import github
from app.cli.ui.console import note
from app.cli.ui.options import AsJson, StateDir
from app.client import Client, Json


def create(
    file: JobFile = None,
    model: Model = None,
    method: Method = None,
    training_file: TrainingFile = None,
    validation_file: ValidationFile = None,
    test_file: TestFile = None,
    grader: GraderOption = None,
    control: Control = None,
    suffix: Suffix = None,
    gpus: Gpus = None,
    nodes: Nodes = None,
    demonstrations: Demonstrations = None,
    settings: Settings = None,
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
    """Create a job from a file or from options and print its id.

    The server checks the job first. Then the command uploads its local data files, except those that are there already.
    """
    should_wait = wait_for_end or follow_events
    if not should_wait and (junit or summary):
        raise typer.BadParameter("--junit and --summary report how the job ended. Add --wait.")
    body = job_of(
        file,
        model=model,
        method=method,
        grader=grader,
        training_file=training_file,
        validation_file=validation_file,
        test_file=test_file,
        control=control,
        suffix=suffix,
        gpus=gpus,
        nodes=nodes,
        demonstrations=demonstrations,
        settings=settings,
    )
    body = job_file.with_gates(body, gate or [])
    with connect(state_dir) as client:
        if not should_wait:
            print_job(_create(client, body, timeout, idempotency_key), as_json)
            return
        # With an idempotency key, a retry after a lost response finds the job instead of creating a second one.
        key = idempotency_key or uuid.uuid4().hex
        job = retry_until_available(lambda: _create(client, body, timeout, key), report=note)
        note(f"Created {job['id']}")
        wait(client, job["id"], WaitOptions(follow_events, timeout, cancel_on_interrupt, junit, summary, as_json))


def _create(client: Client, body: Json, timeout: float | None, idempotency_key: str | None) -> Json:
    """Store the files of the job on the server, then create it."""
    body = with_stored_files(client, body, timeout, idempotency_key)
    job = client.post("/fine_tuning/jobs", body, idempotency_key=idempotency_key)
    github.set_outputs(job_id=job["id"])
    note_rows(job)
    return job
