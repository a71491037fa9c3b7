"""`grouptune jobs list`: jobs with their names, results and methods; filtered and sorted by the server."""

from enum import StrEnum
from typing import Annotated, Final

import typer

from app.cli.connection import connect
from app.cli.jobs import held_out
from app.cli.jobs.job_ids import SHORT
from app.cli.ui.console import out, write_json, write_table
from app.cli.ui.formatting import age, number
from app.cli.ui.hints import suggest
from app.cli.ui.options import AsJson, StateDir
from app.client import Json
from app.core.jobs.state_machine import JobStatus

_NO_MATCHES: Final = "No job matches."


class Sort(StrEnum):
    """What `--sort` accepts."""

    created = "created"
    finished = "finished"
    name = "name"
    status = "status"
    method = "method"
    model = "model"
    reward = "reward"


_FIELDS: Final = {Sort.created: "created_at", Sort.finished: "finished_at"}
_ASCENDING: Final = (Sort.name, Sort.status, Sort.method, Sort.model)
"""Text is sorted from A to Z, times and rewards from the greatest."""


def list_jobs(
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of jobs.")] = 20,
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs with this status.")] = None,
    method: Annotated[
        str | None, typer.Option(metavar="METHOD", help="Only jobs of this method: gft, supervised, dpo ...")
    ] = None,
    search: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Part of the id, the name, a model, a note or a tag.")
    ] = None,
    sort: Annotated[Sort, typer.Option(help="What to sort by.")] = Sort.created,
    reverse: Annotated[bool, typer.Option("--reverse", help="Sort in the opposite order.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first unless sorted otherwise."""
    given = {"status": status, "method": method, "search": search}
    filters: dict[str, str | int] = {name: str(value) for name, value in given.items() if value}
    order = "asc" if (sort in _ASCENDING) != reverse else "desc"
    sorting = {"order_by": _FIELDS.get(sort, str(sort)), "order": order}
    with connect(state_dir) as client:
        jobs = list(client.pages("/fine_tuning/jobs", limit=limit, **filters, **sorting))
    if as_json:
        write_json(jobs)
        return
    columns = ("id", "name", "status", "step", "reward", "loss", "method", "age", "model")
    no_jobs = f"No jobs yet. Create one with `{suggest('jobs create')}`."
    write_table(columns, [_row(job) for job in jobs], empty=_NO_MATCHES if filters else no_jobs)


def name_of(job: Json) -> str | None:
    """Return the name of a job: the one in its metadata, or the suffix that it was created with."""
    name: str | None = (job["metadata"] or {}).get("name") or job["user_provided_suffix"]
    return name


def steps(job: Json) -> str:
    """Format the progress of a job: `20/100`."""
    progress = job["progress"]
    return f"{progress['step']}/{progress['total_steps'] or '?'}"


def _row(job: Json) -> tuple[object, ...]:
    job_id = job["id"][-SHORT:] if out.is_terminal else job["id"]
    values = job["progress"].get("metrics", {})  # servers of earlier versions send none
    reward, loss = (number(values.get(name), missing="") for name in ("reward", "loss"))
    method = job["method"]["type"]
    return (
        job_id,
        name_of(job),
        held_out.status(job),
        steps(job),
        reward,
        loss,
        method,
        age(job["created_at"]),
        job["model"],
    )
