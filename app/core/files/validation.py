"""Validates a JSONL file line by line in constant memory. Knows nothing of uploads, tables or tokenizers."""

from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from pydantic import BaseModel, ConfigDict

from app.core.spec.rows import MAX_LINE_BYTES, Row, RowError, parse_row

MAX_FILE_BYTES: Final = 2_000_000_000
MAX_ROWS: Final = 1_000_000
MAX_ITEM_FIELDS: Final = 1_000
"""Names counted in a report; a file with a new name in every row must not fill the memory."""
MAX_ITEM_FIELD_LENGTH: Final = 200
_PROGRESS_BYTES: Final = 4_000_000
_BOM: Final = b"\xef\xbb\xbf"

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes in all."""


class Issue(BaseModel):
    """One thing that is wrong with a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    line: int | None
    """From 1; None when it concerns the whole file."""
    param: str | None = None
    message: str

    def __str__(self) -> str:
        return self.message if self.line is None else f"line {self.line}: {self.message}"


class TeacherResponses(BaseModel):
    """Teacher answers a row, over the rows of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: int
    max: int
    total: int


class FileReport(BaseModel):
    """What a data file holds and what is wrong with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    valid: bool
    rows: int
    """Usable rows."""
    bytes: int
    errors: tuple[Issue, ...]
    """The first of them; `error_count` counts all."""
    error_count: int
    warnings: tuple[Issue, ...]
    warning_count: int
    expert_rows: int
    prompt_only_rows: int
    teacher_rows: int
    teacher_responses: TeacherResponses
    item_fields: dict[str, int]
    """How many rows have each field that a grader can read as `item.*`."""

    def summary(self) -> str:
        """One line for `status_details` or a terminal."""
        if self.valid:
            expert = f"{self.expert_rows:,} with a demonstration"
            teacher = f"{self.teacher_rows:,} with teacher responses"
            return f"{self.rows:,} rows: {expert}, {teacher}, {self.prompt_only_rows:,} prompt-only"
        more = self.error_count - 1
        return str(self.errors[0]) + (f" (and {more:,} more error{'s' if more > 1 else ''})" if more else "")


def validate_file(path: Path, *, max_errors: int = 50, progress: Progress | None = None) -> FileReport:
    """The report on the JSONL file at `path`; bad contents are in the report, only I/O raises (OSError).

    At most `max_errors` (at least 1) errors and as many warnings are kept; all are counted.
    """
    total = path.stat().st_size
    tally = _Tally(max(1, max_errors))
    if total > MAX_FILE_BYTES:
        tally.error(None, None, f"the file has {total:,} bytes; the limit is {MAX_FILE_BYTES:,}, so split it")
        return tally.report(total)
    next_progress = _PROGRESS_BYTES
    with path.open("rb") as stream:
        for line, raw in _lines(stream):
            tally.add(line, raw)
            if tally.seen > MAX_ROWS:
                tally.error(line, None, f"the file has more than {MAX_ROWS:,} rows; split it")
                break
            if progress is not None and stream.tell() >= next_progress:
                next_progress = stream.tell() + _PROGRESS_BYTES
                progress(stream.tell(), total)
    if tally.seen == 0:
        tally.error(None, None, "the file holds no rows; write one JSON object a line")
    if progress is not None:
        progress(total, total)
    return tally.report(total)


def read_rows(path: Path, chosen: Container[int] | None = None) -> Iterator[tuple[int, Row]]:
    """Line number (from 1) and row, for each row of the file. Raises RowError at the first bad line.

    With `chosen` only rows whose number (from 0, blank lines not counted) is in it; the others are not parsed.
    """
    with path.open("rb") as stream:
        filled = ((line, raw) for line, raw in _lines(stream) if raw.strip())
        for number, (line, raw) in enumerate(filled):
            if chosen is None or number in chosen:
                yield line, parse_row(raw, line)


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Each line without its end; of one that is too long, only enough for `parse_row` to refuse it."""
    line = 0
    while raw := stream.readline(MAX_LINE_BYTES + 3):
        line += 1
        if line == 1:
            raw = raw.removeprefix(_BOM)
        rest = raw
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_LINE_BYTES)
        yield line, raw.removesuffix(b"\n").removesuffix(b"\r")


class _Tally:
    """Running counts over the lines of one file."""

    def __init__(self, max_kept: int) -> None:
        self.seen = 0
        """Lines that are not blank, usable or not."""
        self._max_kept = max_kept
        self._errors: list[Issue] = []
        self._warnings: list[Issue] = []
        self._error_count = self._warning_count = 0
        self._expert_rows = self._prompt_only_rows = self._teacher_rows = 0
        self._teacher_min: int | None = None
        self._teacher_max = self._teacher_total = 0
        self._item_fields: dict[str, int] = {}
        self._blank: int | None = None

    def add(self, line: int, raw: bytes) -> None:
        if not raw.strip():
            self._blank = self._blank or line
            return
        if self._blank is not None:  # at the end of a file it is not worth a word: many editors save so
            self.warn(self._blank, None, "blank line ignored; line numbers count it")
            self._blank = None
        self.seen += 1
        try:
            row = parse_row(raw, line)
        except RowError as error:
            self.error(error.line, error.param, error.message)
            return
        self._count(row)
        if row.unused_demonstration is not None:
            self.warn(line, "messages", row.unused_demonstration)

    def error(self, line: int | None, param: str | None, message: str) -> None:
        self._error_count += 1
        if len(self._errors) < self._max_kept:
            self._errors.append(Issue(line=line, param=param, message=message))

    def warn(self, line: int | None, param: str | None, message: str) -> None:
        self._warning_count += 1
        if len(self._warnings) < self._max_kept:
            self._warnings.append(Issue(line=line, param=param, message=message))

    def _count(self, row: Row) -> None:
        if row.expert is None:
            self._prompt_only_rows += 1
        else:
            self._expert_rows += 1
        responses = len(row.teacher)
        self._teacher_rows += responses > 0
        self._teacher_min = responses if self._teacher_min is None else min(self._teacher_min, responses)
        self._teacher_max = max(self._teacher_max, responses)
        self._teacher_total += responses
        for name in row.item:
            known = name in self._item_fields
            if known or (len(self._item_fields) < MAX_ITEM_FIELDS and len(name) <= MAX_ITEM_FIELD_LENGTH):
                self._item_fields[name] = self._item_fields.get(name, 0) + 1

    def report(self, total_bytes: int) -> FileReport:
        return FileReport(
            valid=self._error_count == 0,
            rows=self._expert_rows + self._prompt_only_rows,
            bytes=total_bytes,
            errors=tuple(self._errors),
            error_count=self._error_count,
            warnings=tuple(self._warnings),
            warning_count=self._warning_count,
            expert_rows=self._expert_rows,
            prompt_only_rows=self._prompt_only_rows,
            teacher_rows=self._teacher_rows,
            teacher_responses=TeacherResponses(
                min=self._teacher_min or 0, max=self._teacher_max, total=self._teacher_total
            ),
            item_fields=self._item_fields,
        )
