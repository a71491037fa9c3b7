"""`grouptune jobs regrade`: what another grader would have made of what a job's groups said."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.connection import StateDir, connect
from app.cli.files.commands import AsJson
from app.cli.jobs import job_file
from app.cli.jobs.wait import JobId
from app.cli.ui.console import note, write_json, write_table
from app.client import Json


def regrade_job(
    job_id: JobId,
    grader: Annotated[Path, typer.Option("--grader", help="The grader as JSON or YAML.", exists=True, dir_okay=False)],
    step_from: Annotated[int | None, typer.Option("--from", min=0, help="The first step.")] = None,
    step_to: Annotated[int | None, typer.Option("--to", min=0, help="The last step.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Groups at most, from all over these steps.")] = 100,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Grade stored groups with another grader; nothing is generated, and the job stays as it is."""
    body = {"grader": job_file.read(grader, "grader"), "step_from": step_from, "step_to": step_to, "limit": limit}
    with connect(state_dir) as client:
        sent = {name: value for name, value in body.items() if value is not None}
        found = client.post(f"/fine_tuning/jobs/{job_id}/regrade", sent)
    if as_json:
        write_json(found)
        return
    _show(found)


def _show(found: Json) -> None:
    summary = found["summary"]
    note(f"{summary['groups']} of {found['available_groups']} groups, {summary['members']} answers.")
    rows = [
        *(
            (f"mean reward, {source}", _number(one["before"]), _number(one["after"]))
            for source, one in summary["sources"].items()
        ),
        ("groups without contrast", _share(summary["no_contrast_before"]), _share(summary["no_contrast_after"])),
        ("answers that could not be graded", summary["errors_before"], summary["errors_after"]),
        ("rank correlation of the rewards", None, _number(summary["rank_correlation"])),
        ("advantages that change their sign", None, _of(summary["changed_signs"], summary["compared_advantages"])),
    ]
    write_table(("what", "as trained", "regraded"), rows, empty="")
    for error in summary["error_samples"]:
        note(f"Could not be graded: {error}")
    if found["ungraded_groups"]:
        note(f"{found['ungraded_groups']} groups were not done in time: ask for fewer (--limit).")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole}" + (f" ({part / whole:.1%})" if whole else "")
