"""A few rows from all over a file, for what need not be counted exactly."""

from collections.abc import Sequence
from typing import BinaryIO, Final

from app.core.files.reading import line_content
from app.core.files.validation_report import RowPlace
from app.core.spec.rows import MAX_LINE_BYTES, Row, parse_row

SAMPLED_ROWS: Final = 64


def sample_rows(stream: BinaryIO, places: Sequence[RowPlace]) -> list[Row]:
    """At most `SAMPLED_ROWS` of the rows at these places of a seekable JSONL file."""
    every = -(-len(places) // SAMPLED_ROWS) or 1
    rows = []
    for place in places[::every]:
        stream.seek(place.offset)
        raw = stream.readline(MAX_LINE_BYTES + 3)
        rows.append(parse_row(line_content(raw, place.line), place.line))
    return rows
