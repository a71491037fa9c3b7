"""docs/exactness.md lists every trap and names only tests that exist."""

import re
from typing import Final

from tests.docs.named_tests import DOCS, NAME, existing_tests, table_rows

PAGE: Final = DOCS / "exactness.md"
TRAPS = 22


def test_named_tests_exist() -> None:
    named = set(NAME.findall(PAGE.read_text(encoding="utf-8")))
    assert len(named) > 2 * TRAPS
    assert named - existing_tests() == set()


def test_tests_are_named_in_one_form_only() -> None:
    """A name in another form would not be checked."""
    rest = NAME.sub("", PAGE.read_text(encoding="utf-8")).replace("tests/docs/test_exactness.py", "")
    assert re.findall(r"\btest_\w+", rest) == []


def test_every_trap_has_promise_tests_and_bugs() -> None:
    rows = table_rows(PAGE, 4)
    assert [row[0] for row in rows] == [str(trap) for trap in range(1, TRAPS + 1)]
    for _, promise, tests, bugs in rows:
        assert promise
        assert bugs
        assert NAME.findall(tests)
        assert NAME.sub("", tests).strip() == ""
