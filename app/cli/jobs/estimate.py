"""`grouptune jobs estimate`: what a job would take, and whether it fits on a worker, before anything runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from app.cli.connection import StateDir, connect
from app.cli.files.commands import AsJson, human_bytes
from app.cli.jobs import job_file
from app.cli.jobs.create import send_valid
from app.cli.jobs.live_panel import clock
from app.cli.ui.console import fail, write_json, write_table
from app.cli.ui.exits import ExitCode
from app.client import Json


def estimate_job(
    file: Annotated[Path, typer.Option("--file", "-f", help="The job as YAML or JSON.", exists=True, dir_okay=False)],
    training_file: Annotated[
        str | None, typer.Option("--training-file", metavar="PATH", help="In place of the job's own; path or id.")
    ] = None,
    validation_file: Annotated[
        str | None, typer.Option("--validation-file", metavar="PATH", help="In place of the job's own; path or id.")
    ] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Estimate a job: tokens, time, memory, and whether it fits on a worker; if not, the exit code is 1."""
    body = job_file.with_files(job_file.read(file), training_file=training_file, validation_file=validation_file)
    with connect(state_dir) as client:
        body = job_file.with_uploads(body, file.parent, lambda path: send_valid(client, path, None, None))
        found = client.post("/fine_tuning/estimate", body)
    if as_json:
        write_json(found)
    else:
        _show(found)
    if found["verdict"] == "does_not_fit":
        fail(found["reason"])
        raise typer.Exit(ExitCode.error)


def _show(found: Json) -> None:
    tokens, parts, basis = found["tokens"], found["parts"] or {}, found["based_on"]
    jobs = f"finished jobs on this device: {basis['same_jobs']} of this model, {basis['device_jobs']} of others"
    rows = [
        ("device", found["device"]),
        ("time", duration(found["seconds"])),
        *((f"  {part}", clock(seconds)) for part, seconds in parts.items()),
        ("peak memory", spread(found["peak_memory_bytes"], human_bytes)),
        ("steps", f"{found['steps']:,}"),
        ("prompt tokens", spread(tokens["prompt"], number)),
        ("response tokens", spread(tokens["response"], number)),
        ("trained tokens", spread(tokens["trained"], number)),
        ("rollouts", f"{found['rollouts']:,}"),
        ("grader calls", f"{found['grader_calls']:,}"),
        ("teacher requests", f"{found['teacher_requests']:,}"),
        ("learnt from", jobs),
        ("verdict", f"{found['verdict'].replace('_', ' ')}. {found['reason']}"),
    ]
    write_table(("what", "expected"), [row for row in rows if row[1] is not None], empty="")


def duration(seconds: Json | None) -> str | None:
    """`4:07 (3:00 to 6:10)`."""
    return spread(seconds, clock)


def number(value: float) -> str:
    """To the whole."""
    return f"{value:,.0f}"


def spread(value: Json | None, shown: Callable[[float], str]) -> str | None:
    """What is expected, and its range if it is no single number."""
    if value is None:
        return None
    low, expected, high = (shown(value[name]) for name in ("low", "expected", "high"))
    return expected if low == high else f"{expected} ({low} to {high})"


def estimated(job: Json) -> str | None:
    """What a job was expected to take, for `jobs show`."""
    made = job["estimate"]
    if made is None or made["seconds"] is None:
        return None
    return f"{duration(made['seconds'])}, {human_bytes(made['peak_memory_bytes']['expected'])} on {made['device']}"


def took(job: Json) -> str | None:
    """What it took, and how far the estimate was off."""
    found, made = job["measured"], job["estimate"]
    if found is None:
        return None
    memory = found["peak_memory_bytes"]
    told = clock(found["seconds"]) + ("" if memory is None else f", {human_bytes(memory)}")
    if made is None or made["seconds"] is None:
        return told
    expected, seconds = made["seconds"], found["seconds"]
    off = seconds / expected["expected"] - 1
    where = "within" if expected["low"] <= seconds <= expected["high"] else "outside of"
    return f"{told}: {abs(off):.0%} {'longer' if off > 0 else 'shorter'} than expected, {where} the range"
