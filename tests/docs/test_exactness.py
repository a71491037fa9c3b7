"""docs/exactness.md names every trap and only tests that exist."""

import re
from typing import Final

from tests.docs.named_tests import DOCS, NAME, defined, table_rows

PAGE: Final = DOCS / "exactness.md"
TRAPS: Final = 21


def test_every_test_that_it_names_exists() -> None:
    named = set(NAME.findall(PAGE.read_text(encoding="utf-8")))
    assert len(named) > 2 * TRAPS
    assert named - defined() == set()


def test_nothing_that_looks_like_a_test_is_named_in_another_way() -> None:
    """Such a name would not be checked."""
    rest = NAME.sub("", PAGE.read_text(encoding="utf-8")).replace("tests/docs/test_exactness.py", "")
    assert re.findall(r"\btest_\w+", rest) == []


def test_every_trap_has_a_promise_a_test_and_the_change_that_turned_it_red() -> None:
    rows = table_rows(PAGE, 4)
    assert [row[0] for row in rows] == [str(trap) for trap in range(1, TRAPS + 1)]
    for _, promise, tests, change in rows:
        assert promise
        assert change
        assert NAME.findall(tests)
        assert NAME.sub("", tests).strip() == ""
