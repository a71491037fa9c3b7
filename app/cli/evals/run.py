"""`grouptune evals run`: creates a run of an eval, and waits for its results."""

import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.progress import BarColumn, Progress, TextColumn

from app.cli.connection import connect
from app.cli.evals.show import summary
from app.cli.files import upload
from app.cli.jobs import job_file
from app.cli.jobs.watcher import retry_until_available
from app.cli.ui.console import err, fail, note, write_json, write_line
from app.cli.ui.exits import ExitCode
from app.cli.ui.options import AsJson, StateDir
from app.client import Client, Json, path_segment
from app.core.errors import InvalidRequest

POLL_SECONDS: Final = 0.5
"""Between two requests for a run: OpenAI's evals API has no events to wait for."""
PURPOSE: Final = "evals"
_UNFINISHED: Final = ("queued", "in_progress")
_AFTER: Final = {"completed": ExitCode.ok, "failed": ExitCode.job_failed, "canceled": ExitCode.job_cancelled}


def run(
    eval_id: Annotated[str, typer.Argument(metavar="EVAL", help="Eval id: eval_...")],
    rows: Annotated[
        str, typer.Argument(metavar="FILE", help="JSONL file with the rows, or the id of an uploaded one.")
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", help="The model that answers. Default: the rows' own answers."),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option("--base-url", metavar="URL", help="OpenAI-compatible server of the model, up to /v1."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", metavar="TEXT", help="Message to the model, such as '{{item.question}}'. Default: the messages."
        ),
    ] = None,
    params: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Field of sampling_params: temperature=0. Repeatable."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="TEXT", help="Name of the run.")] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait until the run ends.")] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Run an eval on the rows of a file. Prints the run's id, and its results once it has ended.

    A failed run exits with code 5, and a canceled one with code 6.
    """
    body: Json = {"data_source": _data_source(model, base_url, prompt, params or [])}
    if name is not None:
        body["name"] = name
    with connect(state_dir) as client:
        body["data_source"]["source"] = {"type": "file_id", "id": _file_id(client, rows)}
        found = client.post(f"/evals/{path_segment(eval_id)}/runs", body)
        if not no_wait:
            found = _wait(client, found)
    if as_json:
        write_json(found)
    else:
        write_line(found["id"])
        if not no_wait:
            summary(found)
    if found["status"] == "failed":
        fail(found["error"]["message"], code=found["error"]["code"])
    if not no_wait and _AFTER[found["status"]]:
        raise typer.Exit(_AFTER[found["status"]])


def _data_source(model: str | None, base_url: str | None, prompt: str | None, params: list[str]) -> dict[str, Any]:
    if model is None:
        for option, value in (("--base-url", base_url), ("--prompt", prompt), ("--set", params)):
            if value:
                raise typer.BadParameter("Name the model that answers: --model.", param_hint=option)
        return {"type": "jsonl"}
    source: dict[str, Any] = {"type": "completions", "model": model}
    if base_url is not None:
        source["base_url"] = base_url
    if prompt is not None:
        source["input_messages"] = {"type": "template", "template": [{"role": "user", "content": prompt}]}
    if params:
        settings = [job_file.parse_setting(pair, "temperature=0") for pair in params]
        source["sampling_params"] = {".".join(steps): value for steps, value in settings}
    return source


def _file_id(client: Client, rows: str) -> str:
    """Return the id of the file, uploaded if the project has no file of its content."""
    path = Path(rows)
    if not path.is_file():
        if rows.startswith("file-"):
            return rows
        raise InvalidRequest(f"The file {rows} does not exist. Name an existing one, or the id of an uploaded file.")
    stored = upload.stored_copy(client, path, PURPOSE) or upload.send(client, path, PURPOSE)
    return str(stored["id"])


def _wait(client: Client, found: Json) -> Json:
    """Show the progress of a run until it ends; return it."""
    path = f"/evals/{found['eval_id']}/runs/{found['id']}"
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} rows"),
    )
    try:
        with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as bar:
            task = bar.add_task("", total=found["rows"])
            while found["status"] in _UNFINISHED:
                waits = found["status"] == "queued"
                bar.update(
                    task,
                    description="Waiting for a worker" if waits else "Running",
                    completed=found["result_counts"]["total"],
                )
                time.sleep(POLL_SECONDS)
                found = retry_until_available(lambda: client.get(path), report=note)
    except KeyboardInterrupt:
        note(f"The run continues on the server: grouptune evals show {found['eval_id']} {found['id']}")
        raise
    return found
