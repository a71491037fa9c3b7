"""The report on a data file, for clients and for later checks of jobs."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ConfigDict

from app.core.plurals import plural
from app.core.spec.described import Described

NO_ANSWER: Final = "no row has an answer to learn from"
_ANSWER_COUNTS: Final = ("expert_rows", "trained_turns", "teacher_rows", "preference_rows")


class Issue(Described):
    """One error or warning in a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    line: int | None
    """Counted from 1; None if it concerns the whole file. In a Parquet file, the number of the row."""
    param: str | None = None
    """Path of the field in the row; null if it concerns the whole row."""
    message: str
    """What is wrong and how to fix it."""

    def __str__(self) -> str:
        return self.message if self.line is None else f"line {self.line}: {self.message}"


class TeacherResponses(Described):
    """Number of teacher answers per row, over the rows of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: int
    max: int
    total: int


class RowPlace(Described):
    """Position of a row, for readers that start in the middle of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    line: int
    offset: int
    """Bytes before its line in the file's rows (`File.rows`)."""


class LongRow(RowPlace):
    """One of the longest rows."""

    characters: int
    """Length of its prompt and its longest answer."""


class FileReport(Described):
    """The content of a data file and its errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    valid: bool
    rows: int
    """Number of valid rows."""
    bytes: int
    errors: tuple[Issue, ...]
    """The first errors; `error_count` counts all."""
    error_count: int
    warnings: tuple[Issue, ...]
    warning_count: int
    expert_rows: int
    prompt_only_rows: int
    trained_rows: int | None = None
    """Rows with an assistant message whose weight is not 0; None in reports of earlier versions."""
    trained_turns: int | None = None
    """All assistant messages whose weight is not 0. Supervised methods train each of them."""
    preference_rows: int = 0
    """Rows with a preferred and a non-preferred answer, which only `dpo` can use."""
    teacher_rows: int
    teacher_responses: TeacherResponses
    item_fields: dict[str, int]
    """Number of rows with each field that a grader can read as `item.*`."""
    duplicate_rows: int = 0
    """Number of rows with the same prompt and answers as an earlier row."""
    longest: tuple[LongRow, ...] = ()
    """Longest first. If these rows fit into a token limit, all rows do."""
    places: tuple[RowPlace, ...] = ()
    """Evenly spread rows, including the first one."""
    conversion: dict[str, str] | None = None
    """How `convert` can make the rows usable: with these fields mapped to columns; None if it cannot.

    Empty if it finds the columns, or if the error says that they must be named."""

    @property
    def has_answers(self) -> bool:
        """Whether a row has an answer to learn from; if none has, only rollouts and teachers give answers."""
        return has_answers(vars(self))

    def summary(self) -> str:
        """Return one line for `status_details` or a terminal."""
        if self.valid:
            turns = self.trained_turns or 0
            counts = {
                f"{self.expert_rows:,} with a demonstration": self.expert_rows,
                plural(turns, "trained turn"): turns > self.expert_rows,
                f"{self.teacher_rows:,} with teacher responses": self.teacher_rows,
                f"{self.preference_rows:,} with a pair of answers": self.preference_rows,
                f"{self.prompt_only_rows:,} prompt-only": self.prompt_only_rows,
                plural(self.duplicate_rows, "duplicate"): self.duplicate_rows,
            }
            nothing = "" if self.has_answers else f"; {NO_ANSWER}"
            return f"{plural(self.rows, 'row')}: {', '.join(text for text, shown in counts.items() if shown)}{nothing}"
        more = self.error_count - 1
        return str(self.errors[0]) + (f" (and {plural(more, 'more error')})" if more else "")


def has_answers(report: Mapping[str, Any]) -> bool:
    """Return `FileReport.has_answers` of a stored report, without validating it."""
    return any(report.get(count) for count in _ANSWER_COUNTS)


def broken(total_bytes: int, message: str, *, is_convertible: bool = False) -> FileReport:
    """Return the report on a file without any readable row."""
    return FileReport(
        valid=False,
        rows=0,
        bytes=total_bytes,
        errors=(Issue(line=None, message=message),),
        error_count=1,
        warnings=(),
        warning_count=0,
        expert_rows=0,
        prompt_only_rows=0,
        teacher_rows=0,
        teacher_responses=TeacherResponses(min=0, max=0, total=0),
        item_fields={},
        conversion={} if is_convertible else None,
    )
