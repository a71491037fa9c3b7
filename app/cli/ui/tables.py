"""Tables that fit the terminal: cells are shortened, the last column wraps, further columns continue below."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

GAP: Final = 3
SHORT: Final = 12
"""A column is not made narrower than this, nor than its header."""
LAST: Final = 24
"""The least width for the last column, in which text wraps."""
STATUS_STYLES: Final = {
    **dict.fromkeys(("succeeded", "processed", "completed", "delivered", "active", "alive", "pass"), "green"),
    **dict.fromkeys(("running", "in_progress"), "blue"),
    **dict.fromkeys(("queued", "validating_files", "uploaded", "pending", "paused", "draining"), "yellow"),
    **dict.fromkeys(("failed", "fail", "error", "parked", "lost", "crashed", "revoked"), "red"),
    **dict.fromkeys(("cancelled", "canceled", "expired", "gone"), "dim"),
}
_STATUS_COLUMNS: Final = ("status", "state", "outcome")

Cells = Sequence[Sequence[str]]


def print_table(console: Console, columns: Sequence[str], rows: Cells) -> None:
    """Print the table, in several blocks if its columns do not fit next to each other."""
    natural = [max(len(column), *(_width(row[index]) for row in rows)) for index, column in enumerate(columns)]
    for block in blocks(columns, natural, console.width):
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold dim")
        for index, width in block.items():
            is_last = index == len(columns) - 1
            table.add_column(
                columns[index], width=width, overflow="fold" if is_last else "ellipsis", no_wrap=not is_last
            )
        for row in rows:
            table.add_row(*(_cell(columns[index], row[index]) for index in block))
        console.print(table, soft_wrap=False)


def blocks(columns: Sequence[str], natural: Sequence[int], available: int) -> list[dict[int, int]]:
    """Divide columns of these natural widths into blocks; each maps the index of a column to its width.

    Every block begins with the first column, which is never shortened.
    """
    least = [min(width, max(len(column), SHORT)) for column, width in zip(columns, natural, strict=True)]
    least[0] = natural[0]
    if len(columns) > 1:
        least[-1] = min(natural[-1], max(len(columns[-1]), LAST))
    result: list[dict[int, int]] = []
    block: list[int] = [0]
    for index in range(1, len(columns)):
        if sum(least[other] + GAP for other in [*block, index]) - GAP > available and len(block) > 1:
            result.append(_widths(block, least, natural, available))
            block = [0]
        block.append(index)
    return [*result, _widths(block, least, natural, available)]


def _widths(block: Sequence[int], least: Sequence[int], natural: Sequence[int], available: int) -> dict[int, int]:
    """Share what the least widths leave over: to the columns in their order, up to their natural widths."""
    spare = max(0, available - sum(least[index] + GAP for index in block) + GAP)
    widths = {}
    for index in block:
        more = min(spare, natural[index] - least[index])
        spare -= more
        widths[index] = least[index] + more
    return widths


def _width(cell: str) -> int:
    return max((Text(line).cell_len for line in cell.splitlines()), default=0)


def _cell(column: str, cell: str) -> Text:
    return Text(cell, STATUS_STYLES.get(cell, "") if column in _STATUS_COLUMNS else "")
