"""`grouptune jobs wait`, and waiting as `jobs create` does it: shows a job, tells its outcome, exits with its code."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from app.cli.connection import StateDir, connect
from app.cli.files.commands import AsJson
from app.cli.jobs.job_report import VERDICTS, Outcome
from app.cli.jobs.live_panel import JobView, follow
from app.cli.jobs.watcher import WaitTimeout, watch
from app.cli.ui import github
from app.cli.ui.console import err, fail, note, write_json, write_line
from app.cli.ui.exits import ExitCode, after_job
from app.cli.ui.options import seconds
from app.client import Client, Json
from app.core.errors import GrouptuneError

JobId = Annotated[str, typer.Argument(metavar="JOB")]
Follow = Annotated[bool, typer.Option("--follow", help="Like --wait, and print every event.")]
Timeout = Annotated[
    Any, typer.Option("--timeout", parser=seconds, metavar="DURATION", help="Wait at most 90s, 30m, 2h ...")
]
CancelOnInterrupt = Annotated[bool, typer.Option("--cancel-on-interrupt", help="Ctrl-C cancels the job too.")]
Junit = Annotated[
    Path | None,
    typer.Option("--junit", metavar="FILE", dir_okay=False, help="Write the outcome as JUnit's XML: job and gates."),
]
Summary = Annotated[
    Path | None, typer.Option("--summary", metavar="FILE", dir_okay=False, help="Write the outcome as Markdown.")
]


@dataclass(frozen=True)
class Waiting:
    """How a command waits, and where it tells the outcome besides its exit code."""

    all_events: bool
    timeout_seconds: float | None
    cancel_on_interrupt: bool
    junit: Path | None
    summary: Path | None
    as_json: bool


def wait_for_job(
    job_id: JobId,
    follow_events: Follow = False,
    timeout: Timeout = None,
    cancel_on_interrupt: CancelOnInterrupt = False,
    junit: Junit = None,
    summary: Summary = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Wait for a job's end. Exit codes: 0 succeeded, 5 failed, 6 cancelled, 7 missed a gate, 3 timed out."""
    with connect(state_dir) as client:
        wait(client, job_id, Waiting(follow_events, timeout, cancel_on_interrupt, junit, summary, as_json))


def wait(client: Client, job_id: str, how: Waiting) -> NoReturn:
    """Follows a job to its end and exits with its code."""
    view = JobView(job_id)
    snapshots = watch(client, job_id, timeout_seconds=how.timeout_seconds, tell=note)
    try:
        with _termination_interrupts():
            job = follow(snapshots, view, events=how.all_events)
    except WaitTimeout as error:
        note(error.message)
        if view.job:
            _report(Outcome(view.job, view.values), how)
        print_job(view.job or {"id": job_id}, how.as_json)
        raise typer.Exit(ExitCode.timeout) from None
    except KeyboardInterrupt:
        _leave(client, job_id, how)
        raise
    _tell_end(job)
    _report(Outcome(job, view.values), how)
    print_job(job, how.as_json)
    raise typer.Exit(after_job(job))


def _tell_end(job: Json) -> None:
    for gate in job["gates"]:
        told = gate["gate"] + (f" ({gate['reason']})" if gate["reason"] else "")
        note(f"Gate {VERDICTS[gate['passed']]}: {told}")
        if gate["passed"] is False:
            github.mark("Gate failed", told)
    if job["error"]:
        err.print("[bold red]The job failed.[/bold red]")
        note(job["error"]["message"])
        if job["error"]["code"] != "gate_failed":
            github.mark("Fine-tuning failed", job["error"]["message"])


def print_job(job: Json, as_json: bool) -> None:
    """The job as the result of a command: its id, or all of it."""
    if as_json:
        write_json(job)
    else:
        write_line(job["id"])


def _leave(client: Client, job_id: str, how: Waiting) -> None:
    if not how.cancel_on_interrupt:
        note(f"Detached; {job_id} goes on. Come back with: grouptune jobs wait {job_id}")
        return
    try:
        client.post(f"/fine_tuning/jobs/{job_id}/cancel")
    except GrouptuneError as error:  # such as a job that has just ended
        fail(f"{job_id} was not cancelled: {error.message}")
    else:
        note(f"Cancelling {job_id}.")


def _report(outcome: Outcome, how: Waiting) -> None:
    for path, text in ((how.junit, outcome.junit), (how.summary, outcome.markdown)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(), encoding="utf-8")
    github.add_summary(outcome.markdown())
    model = outcome.job["fine_tuned_model"] or ""
    github.set_outputs(job_id=outcome.job["id"], model=model, metrics=json.dumps(outcome.metrics))


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """SIGTERM is like Ctrl-C, inside: CI systems stop a step with it."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
