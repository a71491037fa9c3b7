"""Reads numbered lines of a data file: all of them, or some, starting at row offsets that its validation recorded."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import BinaryIO, Final

from app.core.files.validation_report import FileReport, RowPlace
from app.core.spec.json_lines import MAX_LINE_BYTES, Line, line_content, lines
from app.core.spec.rows import Row, parse_row

SAMPLED_ROWS: Final = 1_024
SAMPLED_BYTES: Final = 4_000_000
MAX_PARSED_ROWS: Final = 64
_RUNS: Final = 64
"""Number of runs of neighbouring rows that a sample of a large file consists of. Each run costs a seek."""


def rows_after(stream: BinaryIO, places: Sequence[RowPlace], after: int) -> Iterator[Line]:
    """Yield the lines after number `after` that are not blank."""
    index = bisect_right([place.line for place in places], after + 1) - 1
    start = (places[index].line, places[index].offset) if index >= 0 else (1, 0)
    return (line for line in lines(stream, *start) if line.number > after and line.content.strip())


def sampled(stream: BinaryIO, report: FileReport) -> Iterator[Line]:
    """Yield rows from all over the file: at most `SAMPLED_ROWS`, about `SAMPLED_BYTES`; a small file as a whole."""
    if (report.rows <= SAMPLED_ROWS and report.bytes <= SAMPLED_BYTES) or not report.places:
        yield from islice(rows_after(stream, report.places, 0), SAMPLED_ROWS)
        return
    runs = report.places[:: -(-len(report.places) // _RUNS)]
    affordable = SAMPLED_BYTES * report.rows // max(report.bytes, 1)
    each = max(1, min(SAMPLED_ROWS, affordable) // len(runs))
    for start in runs:
        yield from islice(rows_after(stream, [start], start.line - 1), each)


def longest(stream: BinaryIO, report: FileReport) -> Iterator[Line]:
    """Yield the longest rows by the report, up to `SAMPLED_BYTES` together."""
    left = SAMPLED_BYTES
    for place in report.longest:
        left -= place.characters
        if left < 0:
            return
        yield from islice(lines(stream, place.line, place.offset), 1)


def sample_rows(stream: BinaryIO, places: Sequence[RowPlace]) -> list[Row]:
    """Parse at most `MAX_PARSED_ROWS` rows of a seekable JSONL file, evenly spread over `places`."""
    every = -(-len(places) // MAX_PARSED_ROWS) or 1
    rows = []
    for place in places[::every]:
        stream.seek(place.offset)
        raw = stream.readline(MAX_LINE_BYTES + 3)
        rows.append(parse_row(line_content(raw, place.line), place.line))
    return rows
