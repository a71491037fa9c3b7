"""`grouptune evals show`: an eval with its runs, or a run with its results and rows."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from app.cli.connection import connect
from app.cli.ui.console import note, write_json, write_table
from app.cli.ui.formatting import age, number, one_line
from app.cli.ui.options import AsJson, StateDir
from app.client import Json, path_segment


class Result(StrEnum):
    """What `--status` accepts."""

    passed = "pass"
    failed = "fail"
    error = "error"


def show(
    eval_id: Annotated[str, typer.Argument(metavar="EVAL", help="Eval id: eval_...")],
    run_id: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Run id: evalrun_... Shows its rows.")] = None,
    status: Annotated[Result | None, typer.Option(help="Only rows with this result.")] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of runs, or of rows.")] = 20,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Show an eval with its runs, or a run with its results and rows."""
    if run_id is None and status is not None:
        raise typer.BadParameter("Name the run whose rows to show.", param_hint="--status")
    path = f"/evals/{path_segment(eval_id)}"
    with connect(state_dir) as client:
        if run_id is None:
            found = client.get(path)
            runs = list(client.pages(f"{path}/runs", limit=limit, order="desc"))
        else:
            path = f"{path}/runs/{path_segment(run_id)}"
            run = client.get(path)
            filters = {} if status is None else {"status": str(status)}
            items = list(client.pages(f"{path}/output_items", limit=limit, **filters))
    if run_id is None:
        _show_eval(found, runs, as_json)
    elif as_json:
        write_json(run | {"output_items": items})
    else:
        summary(run)
        columns = (
            "row",
            "status",
            *(each["testing_criteria"] for each in run["per_testing_criteria_results"]),
            "answer",
        )
        write_table(columns, [_item(item, run) for item in items], empty="No finished rows.")


def _show_eval(found: Json, runs: list[Json], as_json: bool) -> None:
    if as_json:
        write_json(found | {"runs": runs})
        return
    note(f"{found['name']} ({found['id']})")
    criteria = [(criterion["name"], criterion["type"]) for criterion in found["testing_criteria"]]
    write_table(("criterion", "type"), criteria, empty="")
    rows = [(run["id"], run["name"], run["status"], *counts(run), age(run["created_at"])) for run in runs]
    columns = ("run", "name", "status", "rows", "passed", "failed", "errored", "age")
    write_table(columns, rows, empty="No runs yet. Create one with `grouptune evals run`.")


def counts(run: Json) -> tuple[str, str, int, int]:
    """Return the finished rows and the passed ones with their shares, the failed and the errored rows."""
    found = run["result_counts"]
    graded = found["passed"] + found["failed"]
    share = f"{found['passed']} ({found['passed'] / graded:.1%})" if graded else "0"
    return f"{found['total']}/{run['rows']}", share, found["failed"], found["errored"]


def summary(run: Json) -> None:
    """Print the results of a run in all, and by criterion."""
    rows, passed, failed, errored = counts(run)
    model = f", {run['model']}" if run["model"] else ""
    done = f"{rows} {'row' if run['rows'] == 1 else 'rows'}"
    note(f"{run['name']}{model}: {run['status']}, {done}: {passed} passed, {failed} failed, {errored} errored.")
    results = run["per_testing_criteria_results"]
    lines = [(each["testing_criteria"], each["passed"], each["failed"], each["errored"]) for each in results]
    write_table(("criterion", "passed", "failed", "errored"), lines, empty="")


def _item(item: Json, run: Json) -> tuple[Any, ...]:
    """Return the cells of a row: the score of each criterion, and the answer or its error."""
    scores = {result["name"]: result["score"] for result in item["results"]}
    names = [each["testing_criteria"] for each in run["per_testing_criteria_results"]]
    sample = item["sample"]
    problems = [result["error"] for result in item["results"] if result["error"]]
    if sample["error"] is not None:
        problems.append(sample["error"]["message"])
    answer = problems[0] if problems else (sample["output"] or [{}])[0].get("content") or ""
    return (item["datasource_item_id"], item["status"], *(number(scores.get(name)) for name in names), one_line(answer))
