"""`grouptune files lint`: what a file's answers would teach, on this machine for a path, on the server for an id."""

import re
from importlib import import_module
from pathlib import Path
from typing import Annotated, Final

import typer

from app.cli.connection import StateDir, connect
from app.cli.jobs import job_file
from app.cli.ui import github
from app.cli.ui.console import Steps, note, write_json, write_table
from app.cli.ui.exits import ExitCode
from app.client import Json
from app.core.errors import InvalidRequest

_COUNT: Final = re.compile(r"(expert|teacher|self)=(\d{1,4})")


def lint(
    target: Annotated[str, typer.Argument(metavar="FILE", help="A path, linted on this machine, or a file's id.")],
    grader: Annotated[
        Path,
        typer.Option(
            "--grader",
            metavar="PATH",
            help="A grader, or a job with one, as JSON or YAML.",
            exists=True,
            dir_okay=False,
        ),
    ],
    group: Annotated[
        str | None,
        typer.Option(metavar="MIX", help="As `expert=1,teacher=3,self=4`; what is left out is the job's or default."),
    ] = None,
    remote: Annotated[
        bool, typer.Option("--remote", help="Also ask judges and reward servers; each answer is a request.")
    ] = False,
    state_dir: StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Grade a file's expert and teacher answers. Exits with code 1 when an expert fails or no group could teach."""
    body = _body(grader, group) | {"remote": remote}
    path = Path(target)
    with Steps() as tell:
        tell("Grading the known answers")
        if path.is_file():
            found = import_module("app.cli.files.local_lint").lint_here(path, body)  # what it needs is slow to import
        else:
            with connect(state_dir) as client:
                found = client.post(f"/files/{target}/lint", body)
    report = found["report"]
    if as_json:
        write_json(found)
    else:
        _show(found["summary"], report)
    if github.is_active() and path.is_file():
        github.annotate(path, report["errors"], report["warnings"])
    if report["error_count"] or report["signal_share_limit"] == 0:
        raise typer.Exit(ExitCode.error)


def _body(path: Path, group: str | None) -> Json:
    """Grader and group of the file, the latter as far as `group` does not say otherwise."""
    sent = job_file.read(path, what="grader, or job with one")
    grader: Json = sent
    mix: Json = {}
    if isinstance(method := sent.get("method"), dict):
        settings = (method.get(str(method.get("type"))) or {}) | (sent.get("gft") or {})
        grader, mix = settings.get("grader") or {}, settings.get("group") or {}
    if "type" not in grader:
        raise InvalidRequest(f"{path} holds no grader: write one, or a job whose method has one.", param="grader")
    return {"grader": grader, "group": mix | _mix(group)}


def _mix(group: str | None) -> dict[str, int]:
    found = {}
    for part in (group or "").replace(" ", "").split(",") if group else ():
        match = _COUNT.fullmatch(part)
        if match is None:
            raise typer.BadParameter(f"{part!r} is no count; write `expert=1,teacher=3,self=4`.", param_hint="--group")
        found[match[1]] = int(match[2])
    return found


def _show(summary: str, report: Json) -> None:
    note(f"{summary}.")
    counted = report["groups"]
    note(
        f"Groups by their known answers: {counted['contrast']:,} differ, {counted['same']:,} are all alike, "
        f"{counted['few']:,} have fewer than two."
    )
    found = [("error", one) for one in report["errors"]] + [("warning", one) for one in report["warnings"]]
    found.sort(key=lambda pair: pair[1]["line"])
    rows = [(one["line"], kind, one["param"], one["message"]) for kind, one in found]
    if rows:
        write_table(("line", "level", "field", "message"), rows, empty="")
    for kind in ("error", "warning"):
        hidden = report[f"{kind}_count"] - len(report[f"{kind}s"])
        if hidden > 0:
            note(f"... and {hidden:,} more {kind}{'s' * (hidden != 1)}.")
