"""`grouptune jobs wait`, also used by `jobs create --wait`: shows a job, reports how it ended, exits with its code."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from app.cli.connection import connect
from app.cli.jobs import held_out
from app.cli.jobs.job_ids import find_job
from app.cli.jobs.job_report import VERDICTS, JobReport
from app.cli.jobs.live_panel import LivePanel, follow
from app.cli.jobs.watcher import WaitTimeout, watch
from app.cli.ui import github
from app.cli.ui.console import err, fail, note, write_json, write_line
from app.cli.ui.exits import ExitCode, after_job
from app.cli.ui.hints import suggest
from app.cli.ui.options import AsJson, JobId, StateDir, duration_seconds
from app.client import Client, Json
from app.core.errors import GrouptuneError

Follow = Annotated[bool, typer.Option("--follow", help="Wait, and print every event.")]
Timeout = Annotated[
    Any,
    typer.Option(
        "--timeout", parser=duration_seconds, metavar="DURATION", help="Maximum time to wait: 90s, 30m, 2h ..."
    ),
]
CancelOnInterrupt = Annotated[
    bool, typer.Option("--cancel-on-interrupt", help="On Ctrl-C or SIGTERM, cancel the job too.")
]
Junit = Annotated[
    Path | None,
    typer.Option(
        "--junit", metavar="FILE", dir_okay=False, help="Write a report of the job and its gates as JUnit XML."
    ),
]
Summary = Annotated[
    Path | None,
    typer.Option("--summary", metavar="FILE", dir_okay=False, help="Write a report of the job as Markdown."),
]


@dataclass(frozen=True)
class WaitOptions:
    """How a command waits for a job, and where it writes reports."""

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
    """Wait until a job ends. Exit codes: 0 succeeded, 5 failed, 6 cancelled, 7 missed a gate, 3 timed out."""
    with connect(state_dir) as client:
        wait(
            client,
            find_job(client, job_id),
            WaitOptions(follow_events, timeout, cancel_on_interrupt, junit, summary, as_json),
        )


def wait(client: Client, job_id: str, options: WaitOptions) -> NoReturn:
    """Follow a job to its end and exit with its code."""
    panel = LivePanel(job_id)
    snapshots = watch(client, job_id, timeout_seconds=options.timeout_seconds, report=note)
    try:
        with _sigterm_as_interrupt():
            job = follow(snapshots, panel, events=options.all_events)
    except WaitTimeout as error:
        note(error.message)
        if panel.job:
            _write_reports(JobReport(panel.job, panel.values), options)
        print_job(panel.job or {"id": job_id}, options.as_json)
        raise typer.Exit(ExitCode.timeout) from None
    except KeyboardInterrupt:
        _detach(client, job_id, options)
        raise
    _print_end(job)
    _write_reports(JobReport(job, panel.values), options)
    print_job(job, options.as_json)
    raise typer.Exit(after_job(job))


def _print_end(job: Json) -> None:
    if (reason := held_out.reason(job)) is not None:
        if job["verdict"] == "worse":
            err.print(f"[bold red]{held_out.WORSE}[/bold red]")
            github.annotate_step(held_out.WORSE.rstrip("."), reason)
        note(reason if (verdict := held_out.verdict_of(job)) is None else f"Verdict {verdict}: {reason}")
    if (job.get("control") or {}).get("reason") is not None:
        note(f"Control: {job['control']['reason']}")
    for gate in job["gates"]:
        result = gate["gate"] + (f" ({gate['reason']})" if gate["reason"] else "")
        note(f"Gate {VERDICTS[gate['passed']]}: {result}")
        if gate["passed"] is False:
            github.annotate_step("Gate failed", result)
    if job["error"]:
        err.print("[bold red]The job failed.[/bold red]")
        note(job["error"]["message"])
        if job["error"]["code"] != "gate_failed":
            github.annotate_step("Fine-tuning failed", job["error"]["message"])


def print_job(job: Json, as_json: bool) -> None:
    """Print the job as the result of a command: its id, or all of it as JSON."""
    if as_json:
        write_json(job)
    else:
        write_line(job["id"])


def _detach(client: Client, job_id: str, options: WaitOptions) -> None:
    if not options.cancel_on_interrupt:
        note(f"Stopped waiting; {job_id} continues. Wait again with: {suggest(f'jobs wait {job_id}')}")
        return
    try:
        client.post(f"/fine_tuning/jobs/{job_id}/cancel")
    except GrouptuneError as error:  # for example, the job has just ended
        fail(f"{job_id} could not be cancelled: {error.message}")
    else:
        note(f"Cancelling {job_id}.")


def _write_reports(report: JobReport, options: WaitOptions) -> None:
    for path, render in ((options.junit, report.junit), (options.summary, report.markdown)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(render(), encoding="utf-8")
    github.add_summary(report.markdown())
    model = report.job["fine_tuned_model"] or ""
    github.set_outputs(job_id=report.job["id"], model=model, metrics=json.dumps(report.metrics))


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM as well, because CI systems stop a step with it."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
