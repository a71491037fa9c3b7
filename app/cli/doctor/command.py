"""`grouptune doctor`: checks an installation and suggests a fix for each problem."""

from dataclasses import asdict
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from app.cli.connection import load_settings
from app.cli.machine import require_linux
from app.cli.ui.console import StatusLine, note, out, write_json, write_line
from app.cli.ui.exits import ExitCode
from app.cli.ui.options import AsJson, InstallationDir
from app.core.errors import BadSetup

STYLES: Final = {"ok": "green", "warning": "yellow", "failed": "bold red"}
SUMMARIES: Final = {
    "ok": "All checks passed.",
    "warning": "The installation works; check the warnings.",
    "failed": "Some checks failed.",
}


def doctor(
    history: Annotated[
        bool, typer.Option("--history", help="Also check the whole history of every job for violated invariants.")
    ] = False,
    state_dir: InstallationDir = None,
    as_json: AsJson = False,
) -> None:
    """Check the installation at DATABASE_URL, or the embedded one. Run it on the workers' machines as well.

    Exit with code 1 if a check fails; warnings alone exit with 0.
    """
    require_linux("`grouptune doctor`")
    checks = import_module("app.cli.doctor.checks")
    findings: list[Any] = []
    with StatusLine() as progress:
        try:
            found = checks.run(load_settings(state_dir), progress, history=history)
        except BadSetup as error:
            found = checks.bad_settings(error)
        for finding in found:
            findings.append(finding)
            if not as_json:
                _show(finding)
    status = str(checks.worst(findings))
    if as_json:
        write_json({"status": status, "findings": [asdict(finding) for finding in findings]})
    else:
        note(SUMMARIES[status])
    if status == "failed":
        raise typer.Exit(ExitCode.error)


def _show(finding: Any) -> None:
    level = str(finding.level)
    if out.is_terminal:
        out.print(f"[{STYLES[level]}]{level:8}[/] [bold]{finding.check:11}[/] {escape(finding.message)}")
        if finding.fix:
            out.print(f"{'':21}[dim]fix: {escape(finding.fix)}[/dim]")
        return
    write_line("\t".join((level, finding.check, finding.message, *([f"fix: {finding.fix}"] if finding.fix else []))))
