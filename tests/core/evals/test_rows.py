"""Rows of a data source, before a run is accepted."""

from typing import Any

import pytest

from app.core.deadline import Deadline
from app.core.errors import InvalidRequest
from app.core.evals.checks import check_rows
from app.core.evals.rows import collect, of_content


@pytest.mark.parametrize(
    "row",
    [
        {"item": {"text": ["a\0"]}},
        {"item": {"\ud83d": 1}},
        {"item": {}, "sample": {"output_text": "\udfff"}},
    ],
)
def test_row_that_cannot_be_stored_is_named(row: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"^Row 2: .* cannot be stored") as caught:
        collect(of_content([{"item": {}}, row], "content"), "source")
    assert caught.value.param == "content.1.item"


def test_other_escapes_can_be_stored() -> None:
    rows, digest = collect(of_content([{"item": {"text": "\U0001f600 \\u0000 \\ud83d"}}], "content"), "source")
    assert (len(rows), digest.count) == (1, 1)


def test_deadline_ends_reading_and_checking() -> None:
    source = [{"item": {"question": "1+1="}}] * 3
    rows, _ = collect(of_content(source, "content"), "source")
    with Deadline(0).applied():
        with pytest.raises(TimeoutError):
            collect(of_content(source, "content"), "source")
        with pytest.raises(TimeoutError):
            check_rows(rows, [], None, "source")
