"""Asks on a terminal before a command deletes something."""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Final

import typer

from app.cli.ui.console import note
from app.cli.ui.exits import ExitCode
from app.core.plurals import plural

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]

_LISTED: Final = 10
"""Objects that the question lists; of more, it shows the count."""


def confirm(
    action: str, names: Sequence[str], noun: str, describe: Callable[[str], str | None], *, is_confirmed: bool
) -> None:
    """Ask whether to `action` the objects: `Delete 2 files:`, each with what `describe` returns for its name.

    Without a terminal on standard input and standard error, nothing is asked: scripts need no option. Raises
    `typer.Exit` if the answer is no, which is the default.
    """
    if is_confirmed or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    note(f"{action} {plural(len(names), noun)}:")
    for name in names[:_LISTED]:
        note("  " + "  ".join(filter(None, (name, describe(name)))))
    if len(names) > _LISTED:
        note(f"  ... and {len(names) - _LISTED:,} more")
    # typer's own question prints a space on standard output, which may be a pipe.
    sys.stderr.write("Continue? [y/N]: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        note("Nothing was changed.")
        raise typer.Exit(ExitCode.error)
