"""`grouptune jobs`: create fine-tuning jobs, follow them, stop them."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from app.cli import job_body
from app.cli.connection import StateDir, connect
from app.cli.console import err, note, write_json, write_line, write_table
from app.cli.durations import seconds
from app.cli.exits import ExitCode, after_job
from app.cli.files import AsJson, age, moment, send
from app.cli.rendering import JobView, event_line, follow
from app.cli.watching import WaitTimeout, wait_for_file, watch
from app.client import Client, Json
from app.core.errors import GrouptuneError

app = typer.Typer(help="Fine-tuning jobs.", no_args_is_help=True)

SHOWN_METRICS: Final = ("loss", "reward", "gft/expert/reward", "gft/teacher/reward", "gft/self/reward", "eval/accuracy")
MOST_POINTS: Final = 5000
TEXT_COLUMNS: Final = 100
AFTER_CHANGE: Final = {"cancel": "cancelled", "pause": "paused", "resume": "queued"}
"""Verb -> the status that it leads to."""
VALIDATION_SECONDS: Final = 60.0


class BrokenFile(GrouptuneError):
    """A data file that was to be trained on has errors."""

    code = "invalid_file"


JobId = Annotated[str, typer.Argument(metavar="JOB")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the end; the exit code tells it.")]
Follow = Annotated[bool, typer.Option("--follow", help="Like --wait, and print every event.")]
Timeout = Annotated[
    Any, typer.Option("--timeout", parser=seconds, metavar="DURATION", help="Wait at most 90s, 30m, 2h ...")
]
CancelOnInterrupt = Annotated[bool, typer.Option("--cancel-on-interrupt", help="Ctrl-C cancels the job too.")]


@app.command()
def create(
    file: Annotated[Path, typer.Option("--file", "-f", help="The job as YAML or JSON.", exists=True, dir_okay=False)],
    gate: Annotated[
        list[str] | None,
        typer.Option("--gate", help="What the job must reach, as 'eval/accuracy >= 0.8'; may be given several times."),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option("--idempotency-key", metavar="KEY", help="A second run with it attaches to the same job."),
    ] = None,
    wait: Wait = False,
    follow_events: Follow = False,
    timeout: Timeout = None,
    cancel_on_interrupt: CancelOnInterrupt = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Create a job; prints its id. `training_file` and `validation_file` may be paths: they are uploaded first."""
    body = job_body.read(file)
    with connect(state_dir) as client:
        body = job_body.with_gates(body, gate or [])
        body = job_body.with_uploads(
            body, file.parent, lambda path: _send_valid(client, path, timeout, idempotency_key)
        )
        job = client.post("/fine_tuning/jobs", body, idempotency_key=idempotency_key)
        if not wait and not follow_events:
            _print_job(job, as_json)
            return
        note(f"Created {job['id']}")
        _wait(client, job["id"], timeout, follow_events, cancel_on_interrupt, as_json)


@app.command("wait")
def wait_for_job(
    job_id: JobId,
    follow_events: Follow = False,
    timeout: Timeout = None,
    cancel_on_interrupt: CancelOnInterrupt = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Wait for a job's end. Exit codes: 0 succeeded, 5 failed, 6 cancelled, 7 missed a gate, 3 timed out."""
    with connect(state_dir) as client:
        _wait(client, job_id, timeout, follow_events, cancel_on_interrupt, as_json)


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
    _print_job(job, as_json)


def _send_valid(client: Client, path: Path, timeout: float | None, idempotency_key: str | None) -> str:
    """Uploads a data file; returns its id once the server has validated it, or has taken long over that.

    Otherwise it would depend on who is faster whether the server refuses a job with a broken file or fails it later.
    """
    file = send(client, path, idempotency_key=idempotency_key)
    file = wait_for_file(client, file["id"], timeout_seconds=min(VALIDATION_SECONDS, timeout or VALIDATION_SECONDS))
    if file["status"] == "error":
        raise BrokenFile(f"{path}: {file['status_details']}\nAll of them: grouptune files report {file['id']}")
    return str(file["id"])


def _wait(
    client: Client, job_id: str, timeout: float | None, all_events: bool, cancel_on_interrupt: bool, as_json: bool
) -> None:
    """Follows a job to its end and exits with its code."""
    try:
        snapshots = watch(client, job_id, timeout_seconds=timeout)
        job = follow(snapshots, JobView(job_id), events=all_events)
    except WaitTimeout as error:
        note(error.message)
        _print_job(client.get(f"/fine_tuning/jobs/{job_id}"), as_json)
        raise typer.Exit(ExitCode.timeout) from None
    except KeyboardInterrupt:
        if cancel_on_interrupt:
            client.post(f"/fine_tuning/jobs/{job_id}/cancel")
            note(f"Cancelling {job_id}.")
        else:
            note(f"Detached; {job_id} goes on. Come back with: grouptune jobs wait {job_id}")
        raise
    for gate in job["gates"]:
        mark = {True: "passed", False: "failed", None: "not decided"}[gate["passed"]]
        note(f"Gate {mark}: {gate['gate']}" + (f" ({gate['reason']})" if gate["reason"] else ""))
    if job["error"]:
        err.print("[bold red]The job failed.[/bold red]")
        note(job["error"]["message"])
    _print_job(job, as_json)
    raise typer.Exit(after_job(job))


def _print_job(job: Json, as_json: bool) -> None:
    if as_json:
        write_json(job)
    else:
        write_line(job["id"])


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
