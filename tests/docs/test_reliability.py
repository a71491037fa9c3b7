"""docs/reliability.md names existing tests for every row and shows the figures of the last runs."""

import re
from typing import Final

from app.core.jobs.state_machine import AttemptOutcome
from app.core.spec.reports import TrainerExit
from tests.chaos import report
from tests.docs.named_tests import DOCS, NAME, existing_tests, table_rows
from tests.soak import report as soak_report

PAGE: Final = DOCS / "reliability.md"
ROWS: Final = 25


def text() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_every_row_names_existing_tests() -> None:
    rows = table_rows(PAGE, 4)
    assert [row[0] for row in rows] == [str(number) for number in range(1, ROWS + 1)]
    assert all(NAME.findall(normal + chaos) for _, _, normal, chaos in rows)
    assert set(NAME.findall(text())) - existing_tests() == set()
    rest = NAME.sub("", text()).replace("tests/docs/test_reliability.py", "")
    assert re.findall(r"\btest_\w+", rest) == []


def test_outcomes_and_exit_codes_are_explained() -> None:
    begin, end = text().index("## Classes of failure"), text().index("## Tests")
    classes = text()[begin:end]
    assert [outcome for outcome in AttemptOutcome if f"`{outcome}`" not in classes] == []
    assert [code for code in TrainerExit if not re.search(rf"\b{int(code)}\b", classes)] == []


def test_figures_match_the_last_run() -> None:
    assert report.page(text()) == text()
    assert soak_report.page(text()) == text()
