"""`grouptune jobs cancel`, `pause` and `resume`: change the state of jobs."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import typer

from app.cli.connection import connect
from app.cli.jobs.job_ids import find_jobs
from app.cli.ui.console import fail, note, write_json, write_line
from app.cli.ui.exits import ExitCode
from app.cli.ui.options import AsJson, JobIds, StateDir
from app.client import ApiError, Client, Json

AFTER_CHANGE: Final = {"cancel": "cancelled", "pause": "paused", "resume": "queued"}
"""Action to the status that it leads to."""


def cancel(job_ids: JobIds, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Cancel jobs."""
    _change(job_ids, "cancel", state_dir, as_json)


def pause(job_ids: JobIds, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Pause jobs; a running one writes a checkpoint first."""
    _change(job_ids, "pause", state_dir, as_json)


def resume(job_ids: JobIds, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Put paused jobs back into the queue."""
    _change(job_ids, "resume", state_dir, as_json)


def _change(names: list[str], action: str, state_dir: Path | None, as_json: bool) -> None:
    def change(client: Client, job_id: str) -> Json:
        job = client.post(f"/fine_tuning/jobs/{job_id}/{action}")
        target = AFTER_CHANGE[action]
        # The worker of a running job acts on the request at its next step.
        pending = f"is still {job['status']} and will be {target} in a moment"
        note(f"{job['id']} {pending if job['status'] != target else f'is {target}'}.")
        return job

    each_job(names, change, state_dir, as_json)


def each_job(names: list[str], change: Callable[[Client, str], Json], state_dir: Path | None, as_json: bool) -> None:
    """Change each of these jobs and print its id, or with `as_json` the answer, or all answers as a list.

    A refused change does not keep the others from being made; the command then exits with code 1.
    """
    with connect(state_dir) as client:
        answers, refused = list[Json](), list[ApiError]()
        for job_id in find_jobs(client, names):
            try:
                answers.append(change(client, job_id))
            except ApiError as error:
                if len(names) == 1 or error.is_unavailable:
                    raise
                refused.append(error)
    if as_json:
        write_json(answers[0] if len(names) == 1 else answers)
    else:
        for answer in answers:
            write_line(answer["id"])
    for problem in refused:
        fail(problem.message, param=problem.param, code=problem.code, kind=problem.type)
    if refused:
        raise typer.Exit(ExitCode.error)
