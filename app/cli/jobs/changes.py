"""`grouptune jobs cancel`, `pause`, `resume` and `delete`."""

from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from app.cli.connection import connect
from app.cli.jobs.job_ids import find_jobs
from app.cli.jobs.listing import name_of
from app.cli.several import change_each
from app.cli.ui.confirmation import Yes, confirm
from app.cli.ui.console import note
from app.cli.ui.options import AsJson, JobIds, StateDir
from app.client import NOT_FOUND, ApiError, Client, Json, path_segment

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


def delete(
    job_ids: JobIds,
    models: Annotated[bool, typer.Option("--models", help="Delete the models that the jobs published, too.")] = False,
    yes: Yes = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Delete finished jobs with their checkpoints and metrics.

    A job whose model still exists is deleted only with --models, or after the model.
    """
    with connect(state_dir) as client:
        job_ids = find_jobs(client, job_ids)
        confirm("Delete", job_ids, "job", partial(_describe, client, models), is_confirmed=yes)

        def remove(job_id: str) -> Json:
            if models:
                _delete_model(client, job_id)
            try:
                answer = client.delete(f"/fine_tuning/jobs/{job_id}")
            except ApiError as error:
                if not models and error.code == "job_in_use" and _model_of(client, job_id) is not None:
                    note("Add --models to delete the models of the jobs, too.")
                raise
            note(f"{job_id} is deleted.")
            return answer

        change_each(job_ids, remove, as_json=as_json)


def _describe(client: Client, with_model: bool, job_id: str) -> str | None:
    """Return the name and the status of the job, and the model that is deleted with it; None if it cannot be read."""
    try:
        job = client.get(f"/fine_tuning/jobs/{job_id}")
    except ApiError:
        return None
    model = job["fine_tuned_model"] if with_model else None
    return "  ".join(filter(None, (name_of(job), job["status"], model)))


def _model_of(client: Client, job_id: str) -> str | None:
    name: str | None = client.get(f"/fine_tuning/jobs/{job_id}")["fine_tuned_model"]
    return name


def _delete_model(client: Client, job_id: str) -> None:
    """Delete the model that the job published, unless that has been done."""
    name = _model_of(client, job_id)
    if name is None:
        return
    try:
        client.delete(f"/models/{path_segment(name)}")
    except ApiError as error:
        if error.http_status != NOT_FOUND:
            raise
    else:
        note(f"{name} is deleted.")


def _change(names: list[str], action: str, state_dir: Path | None, as_json: bool) -> None:
    with connect(state_dir) as client:

        def change(job_id: str) -> Json:
            job = client.post(f"/fine_tuning/jobs/{job_id}/{action}")
            target = AFTER_CHANGE[action]
            # The worker of a running job acts on the request at its next step.
            pending = f"is still {job['status']} and will be {target} in a moment"
            note(f"{job['id']} {pending if job['status'] != target else f'is {target}'}.")
            return job

        change_each(find_jobs(client, names), change, as_json=as_json)
