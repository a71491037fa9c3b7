"""Reads numbered lines of a data file: all of them, or some, starting at row offsets that its validation recorded."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import BinaryIO, Final, NamedTuple

from app.core.files.validation_report import FileReport, RowPlace
from app.core.spec.rows import MAX_LINE_BYTES, Row, parse_row

SAMPLED_ROWS: Final = 1_024
SAMPLED_BYTES: Final = 4_000_000
MAX_PARSED_ROWS: Final = 64
_RUNS: Final = 64
"""Number of runs of neighbouring rows that a sample of a large file consists of. Each run costs a seek."""
_BOM: Final = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """One line without its line ending. Of an overlong line, just enough for `parse_row` to refuse it."""

    number: int
    """Counted from 1."""
    offset: int
    """Position of its first byte in the file."""
    content: bytes


def lines(stream: BinaryIO, start: RowPlace | None = None) -> Iterator[Line]:
    """Yield all lines from `start`, or from the beginning, including blank ones.

    Constant memory: `readline` reads at most a few bytes past the limit of a line, and the rest of an overlong line is
    read and dropped in pieces, so that line numbers and offsets stay correct.
    """
    number, offset = (1, 0) if start is None else (start.line, start.offset)
    stream.seek(offset)
    while raw := stream.readline(MAX_LINE_BYTES + 3):
        size = len(raw)
        rest = raw
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_LINE_BYTES)
            size += len(rest)
        yield Line(number, offset, line_content(raw, number))
        number += 1
        offset += size


def line_content(raw: bytes, line: int) -> bytes:
    """Return a line as `parse_row` expects it: without line ending and, on line 1, without byte order mark."""
    raw = raw.removeprefix(_BOM) if line == 1 else raw
    return raw.removesuffix(b"\n").removesuffix(b"\r")


def rows_after(stream: BinaryIO, places: Sequence[RowPlace], after: int) -> Iterator[Line]:
    """Yield the lines after number `after` that are not blank."""
    index = bisect_right([place.line for place in places], after + 1) - 1
    start = places[index] if index >= 0 else None
    return (line for line in lines(stream, start) if line.number > after and line.content.strip())


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
        yield from islice(lines(stream, place), 1)


def sample_rows(stream: BinaryIO, places: Sequence[RowPlace]) -> list[Row]:
    """Parse at most `MAX_PARSED_ROWS` rows of a seekable JSONL file, evenly spread over `places`."""
    every = -(-len(places) // MAX_PARSED_ROWS) or 1
    rows = []
    for place in places[::every]:
        stream.seek(place.offset)
        raw = stream.readline(MAX_LINE_BYTES + 3)
        rows.append(parse_row(line_content(raw, place.line), place.line))
    return rows
