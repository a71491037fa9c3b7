"""Samples of data files: bounded in bytes, whatever the size of a row."""

import json
from pathlib import Path

import pytest

from app.core.files import reading
from app.core.files.validation import validate_file


@pytest.mark.parametrize(("rows", "row_bytes"), [(12, 300_000), (3, 900_000), (3_000, 1_500)])
def test_samples_have_a_budget_in_bytes(tmp_path: Path, rows: int, row_bytes: int) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": str(n), "completion": "x" * row_bytes}) + "\n" for n in range(rows)))
    report = validate_file(path)
    budget = reading.SAMPLED_BYTES + row_bytes + 100  # the last row may exceed it
    with path.open("rb") as stream:
        for lines in (reading.sampled(stream, report), reading.longest(stream, report)):
            assert 0 < sum(len(line.content) for line in lines) <= budget
        parsed = reading.sample_rows(stream, report)
        assert 0 < sum(len(row.expert or "") for row in parsed) <= budget
