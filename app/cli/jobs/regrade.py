"""`grouptune jobs regrade`: grades the stored answers of a job with another grader."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.connection import connect
from app.cli.jobs import job_file
from app.cli.jobs.job_ids import find_job
from app.cli.ui.console import note, write_json, write_table
from app.cli.ui.formatting import number
from app.cli.ui.options import AsJson, JobId, StateDir
from app.client import Json
from app.core.plurals import plural


def regrade_job(
    job_id: JobId,
    grader: Annotated[
        Path, typer.Option("--grader", help="JSON or YAML file with the grader.", exists=True, dir_okay=False)
    ],
    step_from: Annotated[int | None, typer.Option("--from", min=0, help="First step.")] = None,
    step_to: Annotated[int | None, typer.Option("--to", min=0, help="Last step.")] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=500, help="Maximum number of groups, spread evenly over these steps.")
    ] = 100,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Grade stored groups with another grader. Generates nothing and does not change the job."""
    body = {"grader": job_file.read(grader, "grader"), "step_from": step_from, "step_to": step_to, "limit": limit}
    with connect(state_dir) as client:
        given = {name: value for name, value in body.items() if value is not None}
        result = client.post(f"/fine_tuning/jobs/{find_job(client, job_id)}/regrade", given)
    if as_json:
        write_json(result)
        return
    _show(result)


def _show(result: Json) -> None:
    summary = result["summary"]
    note(
        f"Regraded {summary['groups']} of {plural(result['available_groups'], 'group')}, "
        f"{plural(summary['members'], 'answer')}."
    )
    rows = [
        *(
            (f"mean reward, {source}", number(means["before"]), number(means["after"]))
            for source, means in summary["sources"].items()
        ),
        ("groups without contrast", _share(summary["no_contrast_before"]), _share(summary["no_contrast_after"])),
        ("answers that could not be graded", summary["errors_before"], summary["errors_after"]),
        ("rank correlation of the rewards", None, number(summary["rank_correlation"])),
        ("advantages that change sign", None, _part_of(summary["changed_signs"], summary["compared_advantages"])),
    ]
    write_table(("measure", "as trained", "regraded"), rows, empty="")
    for error in summary["error_samples"]:
        note(f"Grading failed: {error}")
    if result["ungraded_groups"]:
        missing = plural(result["ungraded_groups"], "group")
        note(f"The time ended before {missing} could be graded. Request fewer with --limit.")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _part_of(part: int, whole: int) -> str:
    return f"{part} of {whole}" + (f" ({part / whole:.1%})" if whole else "")
