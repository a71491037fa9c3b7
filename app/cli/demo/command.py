"""`grouptune demo`: everything from an empty machine to a fine-tuned model, with the numbers to show for it."""

import json
import shlex
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape

from app.cli import configuration, connection
from app.cli.dashboard import link
from app.cli.demo import data
from app.cli.demo.report import Outcome, print_outcome
from app.cli.jobs.live_panel import JobView, follow
from app.cli.jobs.watcher import Pause, wait_for_file, watch
from app.cli.models import pull
from app.cli.ui.console import Progress, Steps, err, fail, note
from app.cli.ui.exits import AFTER_JOB
from app.cli.up import Host, InstallationDir, Port, announce, make_stack
from app.client import Client, Json
from app.core.errors import GrouptuneError
from app.local.lock import AlreadyRunning

if TYPE_CHECKING:
    from app.local.stack import Stack

DATA_DIR: Final = "demo"
DEFAULT_SEED: Final = 7


class DemoFailed(GrouptuneError):
    """The demo could not be completed."""

    code = "demo_failed"


def demo(
    state_dir: InstallationDir = None,
    model: Annotated[str, typer.Option(help="Base model, fetched if need be.")] = data.BASE_MODEL,
    seed: Annotated[int, typer.Option(min=0, max=2_147_483_647, help="Of the data and of the job.")] = DEFAULT_SEED,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the result there.", dir_okay=False)
    ] = None,
    keep: Annotated[
        bool | None,
        typer.Option("--keep/--no-keep", help="Stay up afterwards; the default on a terminal.", show_default=False),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = None,
) -> None:
    """Start everything, fine-tune a small model on arithmetic, and show before and after."""
    begun = time.monotonic()
    directory = (state_dir or configuration.load().state_dir).absolute()
    with ExitStack() as running:
        tell = running.enter_context(Steps())
        stack = _start(running, directory, host, port, tell)
        pause: Pause = stack.wait if stack else time.sleep
        client = running.enter_context(connection.connect(directory))
        job = _train(client, directory, model, seed, pause, tell)
        outcome = Outcome(job, seed, time.monotonic() - begun, _adapter_path(directory, job))
        same = f" --state-dir {shlex.quote(str(state_dir))}" if state_dir else ""
        print_outcome(outcome, client.base_url, same, err)
        if json_file is not None:
            json_file.write_text(json.dumps(outcome.to_json(), indent=2) + "\n", encoding="utf-8")
        if stack is None:
            return
        err.print()
        if err.is_terminal if keep is None else keep:
            announce(stack)
            _stay(stack)
        else:
            note(f"The server stops now. To start it again: grouptune up{same}")


def _start(running: ExitStack, directory: Path, host: str, port: int | None, tell: Progress) -> "Stack | None":
    """The stack of this process, or None when another process runs one from the same directory."""
    try:
        return running.enter_context(make_stack(directory, host, port, tell))
    except AlreadyRunning:
        tell(f"Using the server that runs from {directory}")
        return None


def _train(client: Client, directory: Path, model: str, seed: int, pause: Pause, tell: Steps) -> Json:
    """The succeeded job. Exits with the job's code, saying why, when it ends otherwise."""
    pull(model, configuration.load().models_dir, tell)
    tell("Uploading the example data")
    train, heldout = _upload(client, directory / DATA_DIR, seed, pause)
    body = data.demo_job(train["id"], heldout["id"], seed) | {"model": model}
    job = client.post("/fine_tuning/jobs", body)
    tell.settle()
    page = link(client, f"/ui/jobs/{job['id']}")
    err.print(f"[dim]Dashboard    [/dim]  [bold]{escape(page)}[/bold]", soft_wrap=True)
    err.print(f"[dim]Training data[/dim]  {train['filename']}: {escape(train['status_details'] or '')}")
    err.print(f"[dim]Held out     [/dim]  {heldout['filename']}: {escape(heldout['status_details'] or '')}\n")
    view = JobView(f"{job['model']} learns to add")
    try:
        job = follow(watch(client, job["id"], pause=pause), view)
    except KeyboardInterrupt:
        with suppress(GrouptuneError):
            # Left alone it would go on at the next start, and the next demo would wait for it.
            client.post(f"/fine_tuning/jobs/{job['id']}/cancel")
            note(f"Cancelling {job['id']}.")
        raise
    if job["status"] != "succeeded":
        reason = (job["error"] or {}).get("message", f"it was {job['status']}")
        fail(f"The job {job['id']} did not succeed: {reason}")
        note(f"The logs are in {directory / 'logs'}.")
        raise typer.Exit(AFTER_JOB[job["status"]])
    return job


def _upload(client: Client, data_dir: Path, seed: int, pause: Pause) -> tuple[Json, Json]:
    """Both halves of the data set, validated. Raises `DemoFailed` when the server finds errors in one."""
    data_dir.mkdir(parents=True, exist_ok=True)
    paths = data_dir / "arithmetic.train.jsonl", data_dir / "arithmetic.heldout.jsonl"
    data.write_dataset(*paths, seed=seed)
    sent = [client.upload(path)["id"] for path in paths]
    train, heldout = (wait_for_file(client, file_id, pause=pause) for file_id in sent)
    for file in (train, heldout):
        if file["status"] == "error":
            raise DemoFailed(f"The server refused {file['filename']}: {file['status_details']}")
    return train, heldout


def _adapter_path(directory: Path, job: Json) -> Path:
    """Where the worker of a local installation put the adapter."""
    return directory / "storage" / f"jobs/{job['id']}/a{job['attempt']}/adapter"


def _stay(stack: "Stack") -> None:
    """Until Ctrl-C, which is a good end here."""
    try:
        stack.wait()
    except KeyboardInterrupt:
        note("Stopping.")
