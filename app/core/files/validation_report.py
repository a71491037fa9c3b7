"""What the validation of a data file found: what clients see, and what later checks of jobs read."""

from pydantic import BaseModel, ConfigDict


class Issue(BaseModel):
    """One thing that is wrong with a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    line: int | None
    """From 1; None when it concerns the whole file. Of a Parquet file the row."""
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


class RowPlace(BaseModel):
    """Where a row lies, for readers that start in the middle of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    line: int
    offset: int
    """Bytes before its line in the file's rows (`File.rows`)."""


class LongRow(RowPlace):
    """One of the longest rows."""

    characters: int
    """Of its prompt and its longest answer."""


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
    duplicate_rows: int = 0
    """Rows whose prompt and answers an earlier row has too."""
    longest: tuple[LongRow, ...] = ()
    """Longest first: a limit in tokens that these keep is kept by all."""
    places: tuple[RowPlace, ...] = ()
    """Rows evenly spread over the file, the first one among them."""

    def summary(self) -> str:
        """One line for `status_details` or a terminal."""
        if self.valid:
            expert = f"{self.expert_rows:,} with a demonstration"
            teacher = f"{self.teacher_rows:,} with teacher responses"
            twice = f", {self.duplicate_rows:,} duplicates" if self.duplicate_rows else ""
            return f"{self.rows:,} rows: {expert}, {teacher}, {self.prompt_only_rows:,} prompt-only{twice}"
        more = self.error_count - 1
        return str(self.errors[0]) + (f" (and {more:,} more error{'s' if more > 1 else ''})" if more else "")


def broken(total_bytes: int, message: str) -> FileReport:
    """The report on a file of which no row could be read."""
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
    )
