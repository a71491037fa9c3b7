"""`grouptune jobs`: list fine-tuning jobs, look at them, stop them; `create` and `wait` have files of their own."""

from pathlib import Path
from typing import Annotated, Final

import typer

from app.cli.connection import StateDir, connect
from app.cli.files.commands import AsJson, age, moment
from app.cli.jobs.create import create
from app.cli.jobs.estimate import estimate_job as estimate
from app.cli.jobs.estimate import estimated, took
from app.cli.jobs.live_panel import event_line
from app.cli.jobs.regrade import regrade_job as regrade
from app.cli.jobs.wait import JobId, print_job, wait_for_job
from app.cli.ui.console import note, write_json, write_line, write_table
from app.client import Json

app = typer.Typer(help="Fine-tuning jobs.", no_args_is_help=True)
app.command()(create)
app.command("wait")(wait_for_job)
app.command("estimate")(estimate)
app.command("regrade")(regrade)

SHOWN_METRICS: Final = ("loss", "reward", "gft/expert/reward", "gft/teacher/reward", "gft/self/reward", "eval/accuracy")
MOST_POINTS: Final = 5000
TEXT_COLUMNS: Final = 100
AFTER_CHANGE: Final = {"cancel": "cancelled", "pause": "paused", "resume": "queued"}
"""Verb -> the status that it leads to."""


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 20,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """List jobs."""
    with connect(state_dir) as client:
        jobs = list(client.pages("/fine_tuning/jobs", limit=limit))
    if as_json:
        write_json(jobs)
        return
    rows = [(job["id"], job["status"], _steps(job), age(job["created_at"]), job["model"]) for job in jobs]
    write_table(("id", "status", "step", "age", "model"), rows, empty="No jobs yet: grouptune jobs create -f job.yaml")


@app.command()
def show(job_id: JobId, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Show one job."""
    with connect(state_dir) as client:
        job = client.get(f"/fine_tuning/jobs/{job_id}")
    if as_json:
        write_json(job)
        return
    error = job["error"] or {}
    rows = [
        ("id", job["id"]),
        ("status", job["status"]),
        ("step", _steps(job)),
        ("method", job["method"]["type"]),
        ("model", job["model"]),
        ("fine-tuned model", job["fine_tuned_model"]),
        ("training file", job["training_file"]),
        ("validation file", job["validation_file"]),
        ("created", moment(job["created_at"])),
        ("finished", moment(job["finished_at"]) if job["finished_at"] else None),
        ("estimated", estimated(job)),
        ("took", took(job)),
        ("held-out accuracy", _accuracy(job)),
        *(
            (f"gate {'passed' if one['passed'] else 'failed'}" if one["reason"] else "gate", one["gate"])
            for one in job["gates"]
        ),
        ("alias", job["alias"]),
        ("error", error.get("message")),
    ]
    write_table(("field", "value"), [row for row in rows if row[1] is not None], empty="")


@app.command()
def events(
    job_id: JobId,
    limit: Annotated[int, typer.Option(min=1, help="At most so many of the latest.")] = 50,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Show what happened, the latest last."""
    with connect(state_dir) as client:
        found = list(client.pages(f"/fine_tuning/jobs/{job_id}/events", limit=limit))[::-1]
    if as_json:
        write_json(found)
        return
    for event in found:
        write_line(event_line(event))


@app.command()
def metrics(
    job_id: JobId,
    names: Annotated[str | None, typer.Option(help="Comma-separated; `jobs metrics --json` has all.")] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the values of every step."""
    asked = [name.strip() for name in names.split(",")] if names else []
    with connect(state_dir) as client:
        query: dict[str, str | int] = {"points": MOST_POINTS} | ({"names": ",".join(asked)} if asked else {})
        found = client.get(f"/fine_tuning/jobs/{job_id}/metrics", **query)
    if found["is_sampled"]:
        note(f"{len(found['steps'])} of the steps, the extremes of --names among them; all of them: format=csv")
    if as_json:
        write_json(found)
        return
    columns = [name for name in asked or SHOWN_METRICS if name in found["series"]]
    series = [found["series"][name] for name in columns]
    rows = [(step, *(_number(one[index]) for one in series)) for index, step in enumerate(found["steps"])]
    write_table(("step", *(name.removeprefix("gft/") for name in columns)), rows, empty="No steps yet.")


@app.command()
def groups(
    job_id: JobId,
    step: Annotated[int | None, typer.Option(min=0, help="The latest step if absent.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many groups.")] = 3,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Show the groups of one step: who said what, what it earned and how it was weighted."""
    with connect(state_dir) as client:
        found = client.get(f"/fine_tuning/jobs/{job_id}/groups", **({} if step is None else {"step": step}))
    if as_json:
        write_json(found)
        return
    for group in found["data"][:limit]:
        note(f"\nStep {found['step']}, row {group['row']}: {_short(group['prompt'])}")
        rows = [
            (member["source"], _number(member["reward"]), _number(member["advantage"]), _short(member["text"]))
            for member in group["members"]
        ]
        write_table(("source", "reward", "advantage", "response"), rows, empty="")
    if not found["data"]:
        note("No groups yet." if step is None else f"No groups of step {step}.")


@app.command()
def cancel(job_id: JobId, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Cancel a job."""
    _change(job_id, "cancel", state_dir, as_json)


@app.command()
def pause(job_id: JobId, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Pause a job; a running one writes a checkpoint first."""
    _change(job_id, "pause", state_dir, as_json)


@app.command()
def resume(job_id: JobId, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Queue a paused job again."""
    _change(job_id, "resume", state_dir, as_json)


def _change(job_id: str, verb: str, state_dir: Path | None, as_json: bool) -> None:
    with connect(state_dir) as client:
        job = client.post(f"/fine_tuning/jobs/{job_id}/{verb}")
    target = AFTER_CHANGE[verb]
    # A worker that trains reads the request at its next step.
    pending = f"is still {job['status']}, and will be {target} in a moment"
    note(f"{job['id']} {pending if job['status'] != target else f'is {target}'}.")
    print_job(job, as_json)


def _steps(job: Json) -> str:
    progress = job["progress"]
    return f"{progress['step']}/{progress['total_steps'] or '?'}"


def _accuracy(job: Json) -> str | None:
    evaluation = job["evaluation"] or {}
    points = [evaluation[when]["values"].get("eval/accuracy") for when in ("before", "after") if when in evaluation]
    known = [f"{point:.1%}" for point in points if point is not None]
    return " -> ".join(known) or None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= TEXT_COLUMNS else f"{flat[: TEXT_COLUMNS - 3]}..."
