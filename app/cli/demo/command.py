"""`grouptune demo`: starts the service, fine-tunes a small model, reports the results before and after, and asks it."""

import json
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape

from app.cli import connection
from app.cli.dashboard import link
from app.cli.demo import data
from app.cli.demo.question import ask_both, print_asked
from app.cli.demo.report import DemoReport, print_report
from app.cli.jobs.live_panel import LivePanel, follow
from app.cli.jobs.watcher import Pause, wait_for_file, watch
from app.cli.models.commands import pull
from app.cli.ui.console import ReportProgress, StatusLine, err, fail, note
from app.cli.ui.exits import AFTER_JOB
from app.cli.ui.hints import suggest
from app.cli.ui.options import Host, InstallationDir, Port
from app.cli.up import announce, make_stack
from app.client import Client, Json
from app.core.errors import GrouptuneError
from app.local.errors import AlreadyRunning

if TYPE_CHECKING:
    from app.local.stack import Stack

DATA_DIR: Final = "demo"
DEFAULT_SEED: Final = 7


class DemoFailed(GrouptuneError):
    """The demo could not complete."""

    code = "demo_failed"


def demo(
    state_dir: InstallationDir = None,
    model: Annotated[str, typer.Option(help="Base model; downloaded if necessary.")] = data.BASE_MODEL,
    seed: Annotated[
        int, typer.Option(min=0, max=2_147_483_647, help="Random seed of the data and of the job.")
    ] = DEFAULT_SEED,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the results to this file as JSON.", dir_okay=False),
    ] = None,
    keep: Annotated[
        bool | None,
        typer.Option(
            "--keep/--no-keep",
            help="Keep the service running afterwards. Default: only on a terminal.",
            show_default=False,
        ),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = None,
) -> None:
    """Start the service, fine-tune a small model, and compare it.

    Compares its arithmetic with the base model's, and asks both a question.
    """
    started = time.monotonic()
    directory = (state_dir or connection.load_settings().state_dir).absolute()
    with ExitStack() as running:
        progress = running.enter_context(StatusLine())
        stack = _start(running, directory, host, port, progress)
        pause: Pause = stack.wait if stack else time.sleep
        client = running.enter_context(connection.connect(directory))
        job = _train(client, directory, model, seed, pause, progress)
        report = DemoReport(job, seed, time.monotonic() - started, _adapter_path(directory, job))
        print_report(report, client.base_url, err)
        asked = ask_both(client, *report.best_question(), job["model"], job["fine_tuned_model"])
        print_asked(asked, err)
        if json_file is not None:
            results = report.to_json() | {"asked": asked.to_json()}
            json_file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        if stack is None:
            return
        err.print()
        if err.is_terminal if keep is None else keep:
            announce(stack)
            _wait_for_interrupt(stack)
        else:
            note(f"Stopping the server. Start it again with: {suggest('up')}")


def _start(
    running: ExitStack, directory: Path, host: str, port: int | None, progress: ReportProgress
) -> "Stack | None":
    """Start the stack; returns None if another process already runs it from the same directory."""
    try:
        return running.enter_context(make_stack(directory, host, port, progress))
    except AlreadyRunning:
        progress(f"Using the server that already runs from {directory}")
        return None


def _train(client: Client, directory: Path, model: str, seed: int, pause: Pause, progress: StatusLine) -> Json:
    """Train the demo's job and return it. Exits with the job's code unless it succeeds."""
    pull(model, connection.load_settings().models_dir, progress)
    progress("Uploading the example data")
    train, heldout = _upload(client, directory / DATA_DIR, seed, pause)
    body = data.demo_job(train["id"], heldout["id"], seed) | {"model": model}
    job = client.post("/fine_tuning/jobs", body)
    progress.settle()
    page = link(client, f"/ui/jobs/{job['id']}")
    err.print(f"[dim]Dashboard    [/dim]  [bold]{escape(page)}[/bold]", soft_wrap=True)
    err.print(f"[dim]Training data[/dim]  {train['filename']}: {escape(train['status_details'] or '')}")
    err.print(f"[dim]Held out     [/dim]  {heldout['filename']}: {escape(heldout['status_details'] or '')}\n")
    panel = LivePanel(f"{job['model']} learns to add")
    try:
        job = follow(watch(client, job["id"], pause=pause), panel)
    except KeyboardInterrupt:
        with suppress(GrouptuneError):
            # Otherwise the job would resume at the next start, and the next demo would queue behind it.
            client.post(f"/fine_tuning/jobs/{job['id']}/cancel")
            note(f"Cancelling {job['id']}.")
        raise
    if job["status"] != "succeeded":
        reason = (job["error"] or {}).get("message", f"its status is {job['status']}")
        fail(f"Job {job['id']} did not succeed: {reason}")
        note(f"The logs are in {directory / 'logs'}.")
        raise typer.Exit(AFTER_JOB[job["status"]])
    return client.get(f"/fine_tuning/jobs/{job['id']}")  # a followed job comes without the answers of its evaluations


def _upload(client: Client, data_dir: Path, seed: int, pause: Pause) -> tuple[Json, Json]:
    """Upload the training and held-out files and wait for their validation. Raises `DemoFailed` for an invalid file."""
    data_dir.mkdir(parents=True, exist_ok=True)
    paths = data_dir / "arithmetic.train.jsonl", data_dir / "arithmetic.heldout.jsonl"
    data.write_dataset(*paths, seed=seed)
    file_ids = [client.upload(path)["id"] for path in paths]
    train, heldout = (wait_for_file(client, file_id, pause=pause) for file_id in file_ids)
    for file in (train, heldout):
        if file["status"] == "error":
            raise DemoFailed(f"{file['filename']} is invalid: {file['status_details']}")
    return train, heldout


def _adapter_path(directory: Path, job: Json) -> Path:
    """Return the path where the worker of a local installation stores the adapter."""
    return directory / "storage" / f"jobs/{job['id']}/a{job['attempt']}/adapter"


def _wait_for_interrupt(stack: "Stack") -> None:
    """Wait until Ctrl-C, which is a normal end here."""
    try:
        stack.wait()
    except KeyboardInterrupt:
        note("Stopping.")
