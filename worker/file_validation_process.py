"""`python -m worker.file_validation_process FILE DIRECTORY SECONDS BYTES`: validates one file within limits.

Writes JSON lines to standard output: progress (`{"done", "total"}`), and at the end `{"report"}` or `{"failed"}`.
Writes to DIRECTORY: `prompts`, the index of the prompts, and `rows.jsonl`, the rows of a Parquet file.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, Final

from app.core.files import parquet
from app.core.files.validation import ValidatedFile, validate_rows
from app.core.files.validation_report import broken
from app.core.spec.subprocess_environment import PARENT_PID
from worker import parent_death

PROMPTS: Final = "prompts"
ROWS: Final = "rows.jsonl"
PROGRESS_SECONDS: Final = 1.0


def send(message: dict[str, Any]) -> None:
    """Write one message for the parent process."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class _Progress:
    """Sends progress at most once a second."""

    def __init__(self) -> None:
        self._next = time.monotonic() + PROGRESS_SECONDS

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_SECONDS
            send({"done": done, "total": total})


def _validate(path: Path, directory: Path) -> ValidatedFile:
    progress = _Progress()
    if not parquet.is_parquet(path):
        return validate_rows(path, progress=progress)
    rows = directory / ROWS
    parquet.to_jsonl(path, rows, progress)
    return validate_rows(rows, progress=progress)


def main() -> int:
    """Validate the file; return the exit code."""
    path, directory, seconds, size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    if parent := os.environ.get(PARENT_PID):
        parent_death.die_with(int(parent))
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))  # SIGXCPU before SIGKILL: it names the reason
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        validated = _validate(path, directory)
    except parquet.UnreadableParquet as error:
        send({"report": broken(path.stat().st_size, str(error)).model_dump(mode="json")})
        return 0
    except MemoryError:
        send({"failed": "memory"})
        return 0
    (directory / PROMPTS).write_bytes(validated.prompts.to_bytes())
    send({"report": validated.report.model_dump(mode="json")})
    return 0


if __name__ == "__main__":
    sys.exit(main())
