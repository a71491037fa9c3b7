"""Helpers for pages that name tests as `module::test` and list them in tables."""

import ast
import re
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parents[1]
DOCS: Final = TESTS.parent / "docs"
NAME: Final = re.compile(r"`(test_\w+)::(test_\w+)`")


def table_rows(page: Path, columns: int) -> list[list[str]]:
    """Return the cells of all table rows that have `columns` columns and start with a number."""
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows if len(row) == columns and row[0].isdecimal()]


def existing_tests() -> set[tuple[str, str]]:
    """Return (module, function) of every test in the repository."""
    return {
        (path.stem, node.name)
        for path in TESTS.rglob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
