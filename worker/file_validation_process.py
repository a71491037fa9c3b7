"""`python -m worker.file_validation_process FILE DIRECTORY SECONDS BYTES`: validates one file within limits.

Writes JSON lines to standard output: progress (`{"done", "total"}`), and at the end `{"report"}` or `{"failed"}`.
Writes to DIRECTORY: `prompts`, the index of the prompts, and `rows.jsonl`, the rows of a Parquet file.
"""

import sys
from pathlib import Path
from typing import Any, Final

from app.core.files import parquet
from app.core.files.validation import ValidatedFile, validate_rows
from app.core.files.validation_report import broken
from worker import limited_process
from worker.limited_process import Progress

PROMPTS: Final = "prompts"
ROWS: Final = "rows.jsonl"


def _validate(path: Path, directory: Path) -> ValidatedFile:
    progress = Progress()
    if not parquet.is_parquet(path):
        return validate_rows(path, progress=progress)
    rows = directory / ROWS
    parquet.to_jsonl(path, rows, progress)
    return validate_rows(rows, progress=progress)


def validate() -> dict[str, Any]:
    """Validate the file and return the report."""
    path, directory = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        validated = _validate(path, directory)
    except parquet.UnreadableParquet as error:
        return {"report": broken(path.stat().st_size, str(error)).model_dump(mode="json")}
    (directory / PROMPTS).write_bytes(validated.prompts.to_bytes())
    return {"report": validated.report.model_dump(mode="json")}


if __name__ == "__main__":
    sys.exit(limited_process.main(validate))
