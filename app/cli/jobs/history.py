"""`grouptune jobs attempts` and `checkpoints`: how a job ran, and from where it can resume."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.jobs.job_ids import find_job
from app.cli.models.download import DownloadFailed, default_directory, download_adapter
from app.cli.ui.console import StatusLine, write_json, write_line, write_table
from app.cli.ui.formatting import age, clock, moment, number
from app.cli.ui.options import AsJson, JobId, StateDir
from app.client import Client, Json


def attempts(job_id: JobId, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """List the attempts of a job and how each ended."""
    with connect(state_dir) as client:
        found = client.get(f"/fine_tuning/jobs/{find_job(client, job_id)}/attempts")["data"]
    if as_json:
        write_json(found)
        return
    columns = ("attempt", "outcome", "started", "took", "steps", "worker", "reason")
    write_table(columns, [_attempt(attempt) for attempt in found], empty="No worker has started the job yet.")


def checkpoints(
    job_id: JobId,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of checkpoints, newest first.")] = 20,
    download: Annotated[
        int | None, typer.Option(metavar="STEP", help="Download the checkpoint of this step and print its directory.")
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="New directory for --download. Default: named after the checkpoint."),
    ] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """List the checkpoints of a job; each can be used as a model."""
    if directory is not None and download is None:
        raise typer.BadParameter("--to needs --download STEP.", param_hint="--to")
    with connect(state_dir) as client:
        path = f"/fine_tuning/jobs/{find_job(client, job_id)}/checkpoints"
        if download is not None:
            write_line(str(_download(client, path, download, directory)))
            return
        found = list(client.pages(path, limit=limit))
    if as_json:
        write_json(found)
        return
    rows = [
        (
            point["step_number"],
            number(point["metrics"].get("loss"), missing=""),
            number(point["metrics"].get("reward"), missing=""),
            age(point["created_at"]),
            point["fine_tuned_model_checkpoint"],
        )
        for point in found
    ]
    write_table(("step", "loss", "reward", "age", "model"), rows, empty="No checkpoints.")


def _download(client: Client, path: str, step: int, directory: Path | None) -> Path:
    steps = {point["step_number"]: point for point in client.pages(path)}
    if step not in steps:
        kept = ", ".join(map(str, sorted(steps))) or "none yet"
        raise DownloadFailed(f"The job has no checkpoint of step {step}. Steps with a checkpoint: {kept}.")
    name = steps[step]["fine_tuned_model_checkpoint"]
    target = directory or default_directory(name)
    with StatusLine() as progress:
        download_adapter(client, f"{path}/{steps[step]['id']}/download", name, target, progress)
    return target


def _attempt(attempt: Json) -> tuple[object, ...]:
    ended, last = attempt["ended_at"], attempt["last_step"]
    return (
        attempt["epoch"],
        attempt["outcome"] or "running",
        moment(attempt["started_at"]),
        "" if ended is None else clock(ended - attempt["started_at"]),
        "" if last is None else f"{attempt['resumed_from_step'] + 1} to {last}",
        attempt["worker"],
        attempt["reason"],
    )
