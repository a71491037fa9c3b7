"""docs/reliability.md names a test for every row, only tests that exist, and the figures of the last chaos run."""

import re
from typing import Final

from app.core.jobs.state_machine import AttemptOutcome
from app.core.spec.reports import TrainerExit
from tests.chaos import report
from tests.docs.named_tests import DOCS, NAME, defined, table_rows

PAGE: Final = DOCS / "reliability.md"
ROWS: Final = 23


def text() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_every_row_has_tests_and_all_of_them_exist() -> None:
    rows = table_rows(PAGE, 4)
    assert [row[0] for row in rows] == [str(number) for number in range(1, ROWS + 1)]
    assert all(NAME.findall(normal + chaos) for _, _, normal, chaos in rows)
    assert set(NAME.findall(text())) - defined() == set()
    rest = NAME.sub("", text()).replace("tests/docs/test_reliability.py", "")
    assert re.findall(r"\btest_\w+", rest) == []


def test_every_outcome_and_every_exit_code_is_explained() -> None:
    begin, end = text().index("## Classes of failure"), text().index("## Who holds it")
    classes = text()[begin:end]
    assert [outcome for outcome in AttemptOutcome if f"`{outcome}`" not in classes] == []
    assert [code for code in TrainerExit if not re.search(rf"\b{int(code)}\b", classes)] == []


def test_the_figures_are_those_of_the_last_run() -> None:
    assert report.page(text()) == text()
