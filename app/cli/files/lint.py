"""`grouptune files lint`: grades a file's answers, on this machine for a path, on the server for a file id."""

import re
from importlib import import_module
from pathlib import Path
from typing import Annotated, Final

import typer

from app.cli.connection import connect
from app.cli.jobs import job_file
from app.cli.ui import github
from app.cli.ui.console import StatusLine, note, write_findings, write_json
from app.cli.ui.exits import ExitCode
from app.cli.ui.options import AsJson, StateDir
from app.client import Json
from app.core.errors import GrouptuneError, InvalidRequest


class LintTooSlow(GrouptuneError):
    """No row was graded before time ran out. Try again later, or lint the file's path on this machine."""

    code = "lint_too_slow"


_COUNT: Final = re.compile(r"(expert|teacher|self)=(\d{1,4})")


def lint(
    target: Annotated[
        str, typer.Argument(metavar="FILE", help="Path to lint on this machine, or id of an uploaded file.")
    ],
    grader: Annotated[
        Path,
        typer.Option(
            "--grader",
            metavar="PATH",
            help="JSON or YAML file with a grader, or with a job that has one.",
            exists=True,
            dir_okay=False,
        ),
    ],
    group: Annotated[
        str | None,
        typer.Option(
            metavar="MIX", help="Group mix, such as expert=1,teacher=3,self=4. Default per source: the job's count."
        ),
    ] = None,
    remote: Annotated[
        bool, typer.Option("--remote", help="Also call judges and reward servers, one request per answer.")
    ] = False,
    state_dir: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Grade a file's demonstrations and teacher answers.

    Exit with code 1 if a demonstration fails, or if no group could have different rewards.
    """
    body = _body(grader, group) | {"remote": remote}
    path = Path(target)
    with StatusLine() as progress:
        progress("Grading the answers in the file")
        if path.is_file():
            result = import_module("app.cli.files.local_lint").lint_path(path, body)  # imports slow libraries
        else:
            with connect(state_dir) as client:
                result = client.post(f"/files/{target}/lint", body)
    report = result["report"]
    if as_json:
        write_json(result)
    else:
        _show(result["summary"], report)
        if (offer := result.get("offer")) is not None:  # servers of earlier versions send none
            note(f"{offer}.")
    if github.is_active() and path.is_file():
        github.annotate(path, report["errors"], report["warnings"])
    raise typer.Exit(exit_code(report))


def exit_code(report: Json) -> ExitCode:
    """Return the code for a report. Raises `LintTooSlow` for one without a graded row because time ran out."""
    if report["stopped"] and not report["rows_graded"]:
        raise LintTooSlow
    teaches_nothing = report["signal_share_limit"] == 0 and not report["stopped"]
    return ExitCode.error if report["error_count"] or teaches_nothing else ExitCode.ok


def _body(path: Path, group: str | None) -> Json:
    """Read the grader and the group mix from a file; counts in `group` override those of the file."""
    content = job_file.read(path, what="grader, or job with one")
    grader: Json = content
    mix: Json = {}
    if isinstance(method := content.get("method"), dict):
        settings = (method.get(str(method.get("type"))) or {}) | (content.get("gft") or {})
        grader, mix = settings.get("grader") or {}, settings.get("group") or {}
    if "type" not in grader:
        raise InvalidRequest(
            f"{path} contains no grader. Write a grader, or a job whose method has one.", param="grader"
        )
    return {"grader": grader, "group": mix | _mix(group)}


def _mix(group: str | None) -> dict[str, int]:
    mix = {}
    for part in group.replace(" ", "").split(",") if group else ():
        match = _COUNT.fullmatch(part)
        if match is None:
            raise typer.BadParameter(f"{part!r} is not a count. Write expert=1,teacher=3,self=4.", param_hint="--group")
        mix[match[1]] = int(match[2])
    return mix


def _show(summary: str, report: Json) -> None:
    note(f"{summary}.")
    counts = report["groups"]
    note(
        f"Rewards of the answers in the file, by group: {counts['contrast']:,} differ, {counts['same']:,} are equal, "
        f"{counts['few']:,} have fewer than two answers."
    )
    write_findings(
        report["errors"], report["warnings"], error_count=report["error_count"], warning_count=report["warning_count"]
    )
