"""`grouptune jobs logs`: prints the log of the trainer, and follows it."""

import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Final

import typer

from app.cli.connection import connect
from app.cli.jobs.job_ids import find_job
from app.cli.jobs.watcher import Pause, retry_until_available
from app.cli.ui.console import note
from app.cli.ui.options import JobId, StateDir
from app.client import Client, Json
from app.core.jobs.state_machine import TERMINAL

POLL_SECONDS: Final = 1.0
"""Workers store new lines about once a second."""


def show_logs(
    job_id: JobId,
    attempt: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of the attempt. Default: the latest.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines until the job ends.")] = False,
    state_dir: StateDir = None,
) -> None:
    """Print the log of a job's trainer, without secrets."""
    with connect(state_dir) as client:
        job_id = find_job(client, job_id)
        last: Json = {}
        for page in _followed(client, job_id, attempt) if follow else _stored(client, job_id, attempt):
            if last.get("attempt") not in (None, page["attempt"]):
                note(f"Attempt {page['attempt']}:")
            if page["omitted"]:
                note(f"[... {page['omitted']:,} characters left out ...]")
            sys.stdout.write(page["text"])
            sys.stdout.flush()
            last = page
    if last["attempt"] is None:
        note("The job has no attempt yet. Wait for its log with --follow.")
    elif last["next"] == 0:
        note(f"The log of attempt {last['attempt']} is empty.")


def _stored(client: Client, job_id: str, attempt: int | None) -> Iterator[Json]:
    """Yield the pages that are stored now."""
    page = _page(client, job_id, attempt, 0)
    yield page
    while page["has_more"]:
        page = _page(client, job_id, page["attempt"], page["next"])
        yield page


def _followed(client: Client, job_id: str, attempt: int | None, pause: Pause = time.sleep) -> Iterator[Json]:
    """Yield pages until the attempt has ended; without `attempt`, those of later attempts too, until the job has."""
    shown, after = attempt, 0
    while True:
        # Read before the log: after its end no attempt can start.
        has_ended = attempt is not None or _status(client, job_id) in TERMINAL
        page = retry_until_available(partial(_page, client, job_id, shown, after), pause=pause, report=note)
        shown, after = page["attempt"], page["next"]
        yield page
        if page["complete"] and attempt is None and page["latest_attempt"] > shown:
            shown, after = shown + 1, 0
        elif has_ended and (page["complete"] or shown is None):
            return
        elif not page["has_more"]:
            pause(POLL_SECONDS)


def _page(client: Client, job_id: str, attempt: int | None, after: int) -> Json:
    which = {} if attempt is None else {"attempt": attempt}
    return client.get(f"/fine_tuning/jobs/{job_id}/logs", after=after, **which)


def _status(client: Client, job_id: str) -> str:
    path = f"/fine_tuning/jobs/{job_id}"
    return str(retry_until_available(partial(client.get, path), report=note)["status"])
