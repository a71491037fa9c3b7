"""Terminal output: results on standard output, progress and errors on standard error; plain text without a terminal."""

import json
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.markup import escape

from app.cli.ui.tables import print_table
from app.client import Json

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

SPINNER_COLUMNS: Final = 3
"""The spinner, a space, and the last column, which the cursor needs."""

ReportProgress = Callable[[str], None]
"""Shows a one-line progress message."""


class _ErrorFormat:
    """How `fail` prints errors in this process."""

    is_json = False


def print_errors_as_json(is_json: bool) -> None:
    """Print errors as JSON from now on, or as text."""
    _ErrorFormat.is_json = is_json


def fail(message: str, *, param: str | None = None, code: str | None = None, kind: str = "client_error") -> None:
    """Print an error; `param` is the request field it is about.

    With --json it is one line: an object in OpenAI's envelope, with `kind` as its `type`.
    """
    if _ErrorFormat.is_json:
        error = {"message": message, "type": kind, "param": param, "code": code}
        sys.stderr.write(json.dumps({"error": error}, ensure_ascii=False) + "\n")
        return
    where = f" [dim]({escape(param)})[/dim]" if param else ""
    err.print(f"[bold red]Error:[/bold red] {escape(message)}{where}")


def warn(message: str) -> None:
    """Print a warning."""
    err.print(f"[bold yellow]Warning:[/bold yellow] {escape(message)}")


def note(message: str) -> None:
    """Print a plain line on standard error, so that standard output holds only results."""
    err.print(escape(message))


def write_json(value: Any) -> None:
    """Print the result as one JSON document."""
    write_line(json.dumps(value, indent=2, ensure_ascii=False))


def write_line(text: str) -> None:
    """Print the result as one line, for `$(...)`, at once: the command may run on for hours."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def write_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print a table that fits the terminal, or `empty` if it has no rows; tab-separated lines without a terminal."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not out.is_terminal:
        for line in [[column.upper() for column in columns], *cells]:
            write_line("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in line))
        return
    if not cells:
        note(empty)
        return
    print_table(out, columns, cells)


def write_findings(
    errors: Sequence[Json], warnings: Sequence[Json], *, error_count: int, warning_count: int | None = None
) -> None:
    """Print errors and warnings by line, and how many more exist than are listed (`warning_count` None: all listed)."""
    findings = [("error", finding) for finding in errors] + [("warning", finding) for finding in warnings]
    findings.sort(key=lambda pair: pair[1]["line"] or 0)
    rows = [(finding["line"], kind, finding["param"], finding["message"]) for kind, finding in findings]
    if rows:
        write_table(("line", "level", "field", "message"), rows, empty="")
    hidden = {
        "error": error_count - len(errors),
        "warning": 0 if warning_count is None else warning_count - len(warnings),
    }
    for kind, count in hidden.items():
        if count > 0:
            note(f"... and {count:,} more {kind}{'s' * (count != 1)}.")


class StatusLine:
    """Callback for one-line progress messages: a spinner with the latest message on a terminal, else a line each.

    Use it as a context manager. After `settle`, messages are plain lines everywhere.
    """

    def __init__(self) -> None:
        self._status = err.status("", spinner="dots") if _has_spinner() else None

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle()

    def __call__(self, message: str) -> None:
        if self._status is None:
            note(message)
        else:
            # A line longer than the terminal would stay on the screen with each turn of the spinner.
            self._status.update(escape(message[: max(err.width - SPINNER_COLUMNS, 0)]))

    def settle(self) -> None:
        """Stop the spinner, if one is running."""
        status, self._status = self._status, None
        if status is not None:
            status.stop()


def _has_spinner() -> bool:
    return err.is_terminal and not err.is_dumb_terminal
