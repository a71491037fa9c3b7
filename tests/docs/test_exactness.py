"""docs/exactness.md names every trap and only tests that exist."""

import ast
import re
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parents[1]
PAGE: Final = TESTS.parent / "docs" / "exactness.md"
NAME: Final = re.compile(r"`(test_\w+)::(test_\w+)`")
TRAPS: Final = 21


def rows() -> list[list[str]]:
    """The cells of the table of traps, without its head."""
    table = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1:]]


def defined() -> set[tuple[str, str]]:
    """Every test there is, by module and function."""
    return {
        (path.stem, node.name)
        for path in TESTS.rglob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_test_that_it_names_exists() -> None:
    named = set(NAME.findall(PAGE.read_text(encoding="utf-8")))
    assert len(named) > 2 * TRAPS
    assert named - defined() == set()


def test_nothing_that_looks_like_a_test_is_named_in_another_way() -> None:
    """Such a name would not be checked."""
    rest = NAME.sub("", PAGE.read_text(encoding="utf-8")).replace("tests/docs/test_exactness.py", "")
    assert re.findall(r"\btest_\w+", rest) == []


def test_every_trap_has_a_promise_a_test_and_the_change_that_turned_it_red() -> None:
    assert [row[0] for row in rows()] == [str(trap) for trap in range(1, TRAPS + 1)]
    for _, promise, tests, change in rows():
        assert promise
        assert change
        assert NAME.findall(tests)
        assert NAME.sub("", tests).strip() == ""
