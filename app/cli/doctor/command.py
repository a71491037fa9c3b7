"""`grouptune doctor`: checks an installation, and says how to mend what it finds."""

from dataclasses import asdict
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from app.cli.db.commands import for_installation
from app.cli.ui.console import Steps, note, out, write_json, write_line
from app.cli.ui.exits import ExitCode
from app.cli.up import InstallationDir

STYLES: Final = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def doctor(
    history: Annotated[bool, typer.Option("--history", help="Also check all that ever happened to every job.")] = False,
    state_dir: InstallationDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check an installation: the configured one, with DATABASE_URL or embedded. Run it where workers run, too.

    The exit code is 1 when something has failed; warnings leave it at 0.
    """
    checkup = import_module("app.cli.doctor.checks")
    findings: list[Any] = []
    with Steps() as progress:
        for finding in checkup.run(for_installation(state_dir), progress, history=history):
            findings.append(finding)
            if not as_json:
                _show(finding)
    verdict = str(checkup.worst(findings))
    if as_json:
        write_json({"status": verdict, "findings": [asdict(finding) for finding in findings]})
    else:
        note({"ok": "All is well.", "warning": "It works; look at the warnings."}.get(verdict, "Not all is well."))
    if verdict == "failed":
        raise typer.Exit(ExitCode.error)


def _show(finding: Any) -> None:
    level = str(finding.level)
    if out.is_terminal:
        out.print(f"[{STYLES[level]}]{level:8}[/] [bold]{finding.check:11}[/] {escape(finding.message)}")
        if finding.fix:
            out.print(f"{'':21}[dim]to mend it: {escape(finding.fix)}[/dim]")
        return
    write_line(
        "\t".join((level, finding.check, finding.message, *([f"to mend it: {finding.fix}"] if finding.fix else [])))
    )
