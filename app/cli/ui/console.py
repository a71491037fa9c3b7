"""The two streams: results on standard output, progress and errors on standard error; plain without a terminal."""

import json
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.table import Table

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

Progress = Callable[[str], None]


def fail(message: str, *, param: str | None = None) -> None:
    """One error for the person who must act."""
    where = f" [dim]({escape(param)})[/dim]" if param else ""
    err.print(f"[bold red]Error:[/bold red] {escape(message)}{where}")


def note(message: str) -> None:
    """A plain line beside the results."""
    err.print(escape(message))


def write_json(value: Any) -> None:
    """One JSON document as the result."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_line(text: str) -> None:
    """One line as the result, for `$(...)`."""
    sys.stdout.write(f"{text}\n")


def write_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """A table that fits the terminal; tab-separated lines without one."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not out.is_terminal:
        for line in [[column.upper() for column in columns], *cells]:
            write_line("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in line))
        return
    if not cells:
        note(empty)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold dim")
    for index, column in enumerate(columns):
        last = index == len(columns) - 1
        table.add_column(column, overflow="fold" if last else "ellipsis", no_wrap=not last)
    for line in cells:
        table.add_row(*(escape(cell) for cell in line))
    out.print(table, soft_wrap=False)


class Steps:
    """A callback for one-line messages: a spinner with the latest one on a terminal, a line each without.

    A context manager; after `settle` the messages are plain lines everywhere.
    """

    def __init__(self) -> None:
        self._status = err.status("", spinner="dots") if _is_lively() else None

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
            self._status.update(escape(message))

    def settle(self) -> None:
        """Ends the spinner; harmless when there is none."""
        status, self._status = self._status, None
        if status is not None:
            status.stop()


def _is_lively() -> bool:
    return err.is_terminal and not err.is_dumb_terminal
