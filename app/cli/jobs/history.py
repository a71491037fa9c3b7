"""`grouptune jobs attempts` and `checkpoints`: how a job ran, and from where it can resume."""

from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.jobs.job_ids import find_job
from app.cli.ui.console import write_json, write_table
from app.cli.ui.formatting import age, clock, moment, number
from app.cli.ui.options import AsJson, JobId, StateDir
from app.client import Json


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
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """List the checkpoints of a job; each can be used as a model."""
    with connect(state_dir) as client:
        found = list(client.pages(f"/fine_tuning/jobs/{find_job(client, job_id)}/checkpoints", limit=limit))
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
