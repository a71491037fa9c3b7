"""Reads numbered lines of a data file: all of them, or some, starting at row offsets that its validation recorded."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import BinaryIO, Final

from app.core.files.validation_report import FileReport, RowPlace
from app.core.spec.json_lines import Line, lines
from app.core.spec.rows import Row, parse_row

SAMPLED_ROWS: Final = 1_024
SAMPLED_BYTES: Final = 1_000_000
"""Most bytes of a sample. A tokenizer takes one to four seconds for them."""
MAX_PARSED_ROWS: Final = 64
_RUNS: Final = 64
"""Number of runs of neighbouring rows that a sample of a large file consists of. Each run costs a seek."""


def rows_after(stream: BinaryIO, places: Sequence[RowPlace], after: int) -> Iterator[Line]:
    """Yield the lines after number `after` that are not blank."""
    index = bisect_right([place.line for place in places], after + 1) - 1
    start = (places[index].line, places[index].offset) if index >= 0 else (1, 0)
    return (line for line in lines(stream, *start) if line.number > after and line.content.strip())


def sampled(stream: BinaryIO, report: FileReport) -> Iterator[Line]:
    """Yield rows from all over the file: at most `SAMPLED_ROWS`, `SAMPLED_BYTES`; a small file as a whole."""
    return _affordable(_sampled(stream, report))


def _sampled(stream: BinaryIO, report: FileReport) -> Iterator[Line]:
    if (report.rows <= SAMPLED_ROWS and report.bytes <= SAMPLED_BYTES) or not report.places:
        yield from islice(rows_after(stream, report.places, 0), SAMPLED_ROWS)
        return
    wanted = min(SAMPLED_ROWS, _rows_within_budget(report))
    runs = _spread(report.places, min(_RUNS, wanted))
    for start in runs:
        yield from islice(rows_after(stream, [start], start.line - 1), wanted // len(runs))


def _rows_within_budget(report: FileReport) -> int:
    """Return how many rows of mean size have `SAMPLED_BYTES`, at least 1."""
    return max(1, SAMPLED_BYTES * report.rows // max(report.bytes, 1))


def _spread(places: Sequence[RowPlace], count: int) -> Sequence[RowPlace]:
    """Return at most `count` places, evenly spread."""
    return places[:: -(-len(places) // count)]


def _affordable(rows: Iterable[Line]) -> Iterator[Line]:
    """Yield rows until they have `SAMPLED_BYTES`; at least one."""
    left = SAMPLED_BYTES
    for row in rows:
        yield row
        left -= len(row.content)
        if left <= 0:
            return


def longest(stream: BinaryIO, report: FileReport) -> Iterator[Line]:
    """Yield the longest rows by the report, until they have `SAMPLED_BYTES`."""
    return _affordable(line for place in report.longest for line in islice(lines(stream, place.line, place.offset), 1))


def sample_rows(stream: BinaryIO, report: FileReport) -> list[Row]:
    """Parse rows from all over a seekable JSONL file: at most `MAX_PARSED_ROWS`, `SAMPLED_BYTES`."""
    places = report.places or (RowPlace(line=1, offset=0),)
    starts = _spread(places, min(MAX_PARSED_ROWS, _rows_within_budget(report)))
    rows = (line for start in starts for line in islice(lines(stream, start.line, start.offset), 1))
    return [parse_row(row.content, row.number) for row in _affordable(rows)]
