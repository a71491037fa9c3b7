"""`grouptune jobs open`: the page of a job in the dashboard."""

import webbrowser
from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.dashboard import link
from app.cli.jobs.job_ids import find_job
from app.cli.ui.console import note, write_line
from app.cli.ui.options import JobId, StateDir


def open_job(
    job_id: JobId,
    print_only: Annotated[bool, typer.Option("--print", help="Print the link without opening a browser.")] = False,
    state_dir: StateDir = None,
) -> None:
    """Open the page of a job in the browser. Prints the link, which signs one browser in."""
    with connect(state_dir) as client:
        page = link(client, f"/ui/jobs/{find_job(client, job_id)}")
    write_line(page)
    if print_only or not webbrowser.open(page):
        note("Open the link in a browser. It works once, within ten minutes.")
