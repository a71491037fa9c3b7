"""`grouptune evals`: the commands, and those that need no file of their own."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.connection import connect
from app.cli.evals.compare import compare
from app.cli.evals.run import run
from app.cli.evals.show import show
from app.cli.jobs import job_file
from app.cli.ui.confirmation import Yes, confirm
from app.cli.ui.console import note, write_json, write_line, write_table
from app.cli.ui.formatting import age
from app.cli.ui.options import AsJson, StateDir
from app.client import Json, path_segment

app = typer.Typer(help="Evaluate models and compare them.", no_args_is_help=True)
app.command("run")(run)
app.command("show")(show)
app.command("compare")(compare)


@app.command("create")
def create(
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", exists=True, dir_okay=False, help="YAML or JSON with the body of POST /v1/evals."),
    ] = None,
    grader: Annotated[
        list[str] | None,
        typer.Option("--grader", "-g", metavar="GRADER", help="Criterion: JSON, or the path of a grader. Repeatable."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="TEXT", help="Name of the eval.")] = None,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Create an eval from a file or from graders, and print its id.

    Without a file, items may have any fields.
    """
    body: dict[str, Any] = {} if file is None else job_file.read(file, "eval")
    body.setdefault(
        "data_source_config", {"type": "custom", "item_schema": {"type": "object"}, "include_sample_schema": True}
    )
    if grader:
        body["testing_criteria"] = [job_file.parse_grader(text) for text in grader]
    if "testing_criteria" not in body:
        raise typer.BadParameter("Name at least one grader, or a file with `testing_criteria`.", param_hint="--grader")
    if name is not None:
        body["name"] = name
    with connect(state_dir) as client:
        created = client.post("/evals", body)
    _print(created, as_json)


@app.command("list")
def list_evals(
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of evals.")] = 20,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """List evals, newest first."""
    with connect(state_dir) as client:
        evals = list(client.pages("/evals", limit=limit, order="desc"))
    if as_json:
        write_json(evals)
        return
    rows = [
        (
            found["id"],
            found["name"],
            ", ".join(criterion["name"] for criterion in found["testing_criteria"]),
            age(found["created_at"]),
        )
        for found in evals
    ]
    write_table(
        ("eval", "name", "criteria", "age"), rows, empty="No evals yet. Create one with `grouptune evals create`."
    )


@app.command("cancel")
def cancel(
    eval_id: Annotated[str, typer.Argument(metavar="EVAL", help="Eval id: eval_...")],
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Run id: evalrun_...")],
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Cancel an unfinished run. Its finished rows stay."""
    with connect(state_dir) as client:
        canceled = client.post(f"/evals/{path_segment(eval_id)}/runs/{path_segment(run_id)}/cancel")
    note(f"{run_id} is {canceled['status']}.")
    _print(canceled, as_json)


@app.command("delete")
def delete(
    eval_id: Annotated[str, typer.Argument(metavar="EVAL", help="Eval id: eval_...")],
    run_id: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Run id: evalrun_... Deletes only this run.")
    ] = None,
    yes: Yes = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Delete an eval with its runs, or one of its runs. Unfinished runs stop."""
    path = f"/evals/{path_segment(eval_id)}" + ("" if run_id is None else f"/runs/{path_segment(run_id)}")
    with connect(state_dir) as client:
        confirm(
            "Delete",
            [run_id or eval_id],
            "eval" if run_id is None else "eval run",
            lambda _name: str(client.get(path)["name"]),
            is_confirmed=yes,
        )
        deleted = client.delete(path)
    note(f"{run_id or eval_id} is deleted.")
    if as_json:
        write_json(deleted)


def _print(found: Json, as_json: bool) -> None:
    if as_json:
        write_json(found)
    else:
        write_line(found["id"])
