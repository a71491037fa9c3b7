"""Validates a JSONL file line by line in constant memory. Independent of uploads, tables and tokenizers.

A file can have a million rows and 2 GB, so nothing here grows with the text: one line is read at a time and cut at the
limit (`json_lines.lines`), errors and warnings are counted but only the first ones kept, the longest rows are a heap of
fixed size, sampled rows are thinned out, and duplicates are found by hashes. Only those hashes grow, by 24 bytes a row.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.core.files import formats, shapes
from app.core.files.duplicates import DuplicateFinder, PromptIndex
from app.core.files.encodings import decodes
from app.core.files.formats import Problem
from app.core.files.shapes import ShapeProblem
from app.core.files.validation_report import NO_ANSWER, FileReport, Issue, LongRow, RowPlace, TeacherResponses, broken
from app.core.plurals import plural
from app.core.spec.json_lines import lines
from app.core.spec.rows import Row, RowError, parse_row

MAX_FILE_BYTES: Final = 2_000_000_000
MAX_ROWS: Final = 1_000_000
MAX_ITEM_FIELDS: Final = 1_000
"""Limit of the field names counted in a report, since a file may have a new name in every row."""
MAX_ITEM_FIELD_LENGTH: Final = 200
MAX_LONGEST: Final = 32
MAX_PLACES: Final = 128
PROGRESS_BYTES: Final = 4_000_000
_PROBED_ROWS: Final = 100
"""If all of the first rows are refused and have one known shape, the file has it."""

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the total."""


@dataclass(frozen=True)
class ValidatedFile:
    """The results of a file's validation."""

    report: FileReport
    prompts: PromptIndex
    """For comparisons with another file."""


def validate_file(
    path: Path,
    *,
    max_errors: int = 50,
    max_rows: int = MAX_ROWS,
    progress: Progress | None = None,
    progress_bytes: int = PROGRESS_BYTES,
) -> FileReport:
    """Return the report on the JSONL file at `path`. Invalid content is reported; only I/O errors raise (`OSError`).

    Keeps at most `max_errors` (at least 1) errors and as many warnings, but counts all. Calls `progress` every
    `progress_bytes`.
    """
    return validate_rows(
        path, max_errors=max_errors, max_rows=max_rows, progress=progress, progress_bytes=progress_bytes
    ).report


def validate_rows(
    path: Path,
    *,
    max_errors: int = 50,
    max_rows: int = MAX_ROWS,
    progress: Progress | None = None,
    progress_bytes: int = PROGRESS_BYTES,
) -> ValidatedFile:
    """Validate as `validate_file`; also returns the index of the file's prompts."""
    total = path.stat().st_size
    builder = _ReportBuilder(max(1, max_errors))
    if total > MAX_FILE_BYTES:
        message = f"the file has {total:,} bytes; the limit is {MAX_FILE_BYTES:,}, so split it"
        return ValidatedFile(broken(total, message), PromptIndex())
    problem = _read(path, builder, max_rows, progress or _ignore, progress_bytes)
    if progress is not None:
        progress(total, total)
    if problem is not None:
        return ValidatedFile(broken(total, problem.message, is_convertible=problem.is_convertible), PromptIndex())
    return ValidatedFile(builder.report(total), builder.duplicate_finder.prompts)


def _ignore(_done: int, _total: int) -> None:
    """Report no progress."""


def _read(
    path: Path, builder: "_ReportBuilder", max_rows: int, progress: Progress, progress_bytes: int
) -> Problem | None:
    """Add all lines to the builder; return the problem of the file as a whole, if it has one."""
    total, next_progress = path.stat().st_size, progress_bytes
    with path.open("rb") as stream:
        if formats.is_wide_or_binary(stream):
            return formats.problem_of(path)
        for line, offset, raw in lines(stream):
            builder.add(line, offset, raw)
            if builder.seen == 1 and not builder.rows and (problem := formats.problem_of(path)):
                return problem
            if builder.seen == _PROBED_ROWS and builder.shape:
                break
            if builder.seen > max_rows:
                builder.error(line, None, f"the file has more than {plural(max_rows, 'row')}; split it")
                break
            if offset >= next_progress:
                next_progress = offset + progress_bytes
                progress(offset, total)
    if builder.seen == 0:
        builder.error(None, None, "the file holds no rows; write one JSON object a line")
    return (formats.problem_of(path) if builder.has_undecodable else None) or builder.shape


class _RowSampler:
    """Keeps evenly spread rows, at most `MAX_PLACES`, without knowing the number of rows in advance.

    It keeps every `_every`-th row. When it is full, it drops every second row and doubles `_every`, so the remaining
    rows are evenly spread again.
    """

    def __init__(self) -> None:
        self.kept: list[tuple[int, int]] = []
        self._every = 1
        self._rows = 0

    def add(self, line: int, offset: int) -> None:
        if self._rows % self._every == 0:
            if len(self.kept) == MAX_PLACES:
                del self.kept[1::2]
                self._every *= 2
            if self._rows % self._every == 0:
                self.kept.append((line, offset))
        self._rows += 1


class _ReportBuilder:
    """Builds the report on one file from its lines."""

    def __init__(self, max_kept: int) -> None:
        self.seen = 0
        """Lines that are not blank, valid or not."""
        self.duplicate_finder = DuplicateFinder()
        self.has_undecodable = False
        """Whether a line is not UTF-8."""
        self._shapes: set[ShapeProblem | None] = set()
        """Known shapes of the refused rows; None is an unknown one."""
        self._max_kept = max_kept
        self._errors: list[Issue] = []
        self._warnings: list[Issue] = []
        self._error_count = self._warning_count = 0
        self._expert_rows = self._prompt_only_rows = self._teacher_rows = 0
        self._trained_rows = self._trained_turns = self._preference_rows = 0
        self._teacher_min = self._teacher_max = self._teacher_total = 0
        self._item_fields: dict[str, int] = {}
        self._blank: int | None = None
        self._longest: list[tuple[int, int, int]] = []
        self._row_sampler = _RowSampler()

    def add(self, line: int, offset: int, raw: bytes) -> None:
        if not raw.strip():
            self._blank = self._blank or line
            return
        if self._blank is not None:  # Blank lines at the end of a file deserve no warning: many editors write them.
            self.warn(self._blank, None, "blank line ignored; line numbers count it")
            self._blank = None
        self.seen += 1
        self._row_sampler.add(line, offset)
        try:
            row = parse_row(raw, line)
        except RowError as error:
            self._refuse(raw, error)
            return
        self._count(row)
        self._measure(line, offset, row)
        self.duplicate_finder.add(line, row)
        for warning in row.warnings:
            self.warn(line, warning.param, warning.message)

    @property
    def rows(self) -> int:
        """Number of valid rows."""
        return self._expert_rows + self._prompt_only_rows + self._preference_rows

    @property
    def shape(self) -> Problem | None:
        """The problem that all rows have; None if there is no such problem."""
        if self.rows or len(self._shapes) != 1 or (shape := next(iter(self._shapes))) is None:
            return None
        return Problem(f"the rows have {shape.problem}; {shape.fix}", shape.is_convertible)

    def _refuse(self, raw: bytes, error: RowError) -> None:
        shape = None
        if self._error_count < max(self._max_kept, _PROBED_ROWS):
            shape = shapes.problem_in(raw)
            self._shapes.add(shape)
        self.has_undecodable = self.has_undecodable or not decodes(raw, "utf-8")
        if shape is None:
            self.error(error.line, error.param, error.message)
        else:
            self.error(error.line, None, f"the row has {shape.problem}; {shape.fix}")

    def error(self, line: int | None, param: str | None, message: str) -> None:
        self._error_count += 1
        if len(self._errors) < self._max_kept:
            self._errors.append(Issue(line=line, param=param, message=message))

    def warn(self, line: int | None, param: str | None, message: str) -> None:
        self._warning_count += 1
        if len(self._warnings) < self._max_kept:
            self._warnings.append(Issue(line=line, param=param, message=message))

    def _count(self, row: Row) -> None:
        if row.preference is not None:
            self._preference_rows += 1
        elif row.demonstration is None:
            self._prompt_only_rows += 1
        else:
            self._expert_rows += 1
        self._trained_rows += bool(row.trained)
        self._trained_turns += len(row.trained)
        if responses := len(row.teacher):
            self._teacher_rows += 1
            self._teacher_min = min(self._teacher_min, responses) if self._teacher_total else responses
            self._teacher_max = max(self._teacher_max, responses)
            self._teacher_total += responses
        fields = self._item_fields
        for name in row.item:
            if name in fields:
                fields[name] += 1
            elif len(fields) < MAX_ITEM_FIELDS and len(name) <= MAX_ITEM_FIELD_LENGTH:
                fields[name] = 1

    def _measure(self, line: int, offset: int, row: Row) -> None:
        longest = (row.characters, line, offset)
        if len(self._longest) < MAX_LONGEST:
            heapq.heappush(self._longest, longest)
        elif longest > self._longest[0]:
            heapq.heapreplace(self._longest, longest)

    @property
    def _is_convertible(self) -> bool:
        return any(shape is not None and shape.is_convertible for shape in self._shapes)

    def _warn_of_lost_text(self) -> dict[str, str] | None:
        """Warn of fields that look like an answer or a system message; return the mapping that would use them."""
        columns: dict[str, str] = {}
        field = (
            None
            if self._expert_rows or self._teacher_rows or self._preference_rows
            else shapes.answer_field(self._item_fields)
        )
        if field is not None:
            columns["completion"] = field
            self._warn_of_column(field, NO_ANSWER + ", but `{0}` looks like one", "completion")
        if "system" in self._item_fields:
            columns["system"] = "system"
            self._warn_of_column("system", "`{0}` is not part of the prompt; only messages are", "system")
        return columns or None

    def _warn_of_column(self, field: str, problem: str, target: str) -> None:
        fix = f"map it: `grouptune files convert FILE --map {target}={field}`, or the button Convert in the dashboard"
        self.warn(None, field, f"{problem.format(field)}; {fix}. Graders read it as `item.{field}`")

    def report(self, total_bytes: int) -> FileReport:
        conversion = self._warn_of_lost_text() if self._error_count == 0 else {} if self._is_convertible else None
        duplicates = self.duplicate_finder.duplicates()
        for duplicate in duplicates:
            self.warn(
                duplicate.line, None, f"repeats line {duplicate.first}: the same prompt and answers; drop one of them"
            )
        return FileReport(
            valid=self._error_count == 0,
            rows=self.rows,
            bytes=total_bytes,
            errors=tuple(self._errors),
            error_count=self._error_count,
            warnings=tuple(self._warnings),
            warning_count=self._warning_count,
            expert_rows=self._expert_rows,
            prompt_only_rows=self._prompt_only_rows,
            trained_rows=self._trained_rows,
            trained_turns=self._trained_turns,
            preference_rows=self._preference_rows,
            teacher_rows=self._teacher_rows,
            teacher_responses=TeacherResponses(
                min=self._teacher_min if self._teacher_rows == self.rows else 0,
                max=self._teacher_max,
                total=self._teacher_total,
            ),
            item_fields=self._item_fields,
            duplicate_rows=len(duplicates),
            longest=tuple(
                LongRow(line=line, offset=offset, characters=characters)
                for characters, line, offset in sorted(self._longest, key=lambda row: (-row[0], row[1]))
            ),
            conversion=conversion,
            places=tuple(RowPlace(line=line, offset=offset) for line, offset in self._row_sampler.kept),
        )
