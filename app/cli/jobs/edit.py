"""`grouptune jobs edit`: changes the name, note, tags and other metadata of a job, its priority and its resources."""

from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.jobs.job_ids import find_job
from app.cli.jobs.job_options import Gpus, Nodes
from app.cli.jobs.wait import print_job
from app.cli.ui.options import AsJson, JobId, StateDir
from app.client import Json
from app.core.errors import InvalidRequest


def edit(
    job_id: JobId,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the job; not of its model.")] = None,
    text: Annotated[str | None, typer.Option("--note", metavar="TEXT", help="Note.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="Tag. Repeatable; replaces all tags.")
    ] = None,
    pairs: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Other metadata. Repeatable.")
    ] = None,
    unset: Annotated[
        list[str] | None, typer.Option("--unset", metavar="KEY", help="Remove metadata. Repeatable.")
    ] = None,
    priority: Annotated[
        int | None, typer.Option(metavar="N", help="Priority, -100 to 100, of a job that is not finished.")
    ] = None,
    gpus: Gpus = None,
    nodes: Nodes = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Change the name, note, tags, priority or resources of a job.

    Resources change only while it waits or is paused.
    """
    changes: dict[str, str | None] = dict.fromkeys(unset or [])
    given = {"name": name, "note": text, "tags": ", ".join(tag) if tag else None}
    changes |= {key: value for key, value in given.items() if value is not None} | dict(map(_pair, pairs or []))
    wanted = {key: count for key, count in (("gpus", gpus), ("nodes", nodes)) if count is not None}
    if not changes and not wanted and priority is None:
        options = "--name, --note, --tag, --set, --unset, --priority, --gpus or --nodes"
        raise InvalidRequest(f"There is nothing to change. Add {options}.")
    with connect(state_dir) as client:
        path = f"/fine_tuning/jobs/{find_job(client, job_id)}"
        body: Json = {} if priority is None else {"priority": priority}
        job = client.get(path) if changes or wanted else {}
        if wanted:
            body["resources"] = job["resources"] | wanted
        if changes:
            metadata = (job["metadata"] or {}) | changes
            body["metadata"] = {key: value for key, value in metadata.items() if value is not None}
        print_job(client.post(path, body), as_json)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise typer.BadParameter(f"{text!r} is not a pair. Write KEY=VALUE.", param_hint="--set")
    return key, value
