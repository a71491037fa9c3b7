"""`python -m worker.row_checking_process FILE MODEL REQUEST SECONDS BYTES`: checks the rows of one file within limits.

FILE is JSONL, MODEL the directory of the base model, REQUEST a `CheckRequest` as JSON. Writes JSON lines to standard
output: progress, and at the end `{"result"}` or `{"failed"}`.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.core.chat import row_check, tokenizer
from app.core.chat.tokenizer import UnusableTokenizer
from app.core.jobs.row_checks import CheckError, CheckRequest, CheckResult
from app.core.spec.rows import Row, RowError, read_rows
from worker import limited_process
from worker.limited_process import Progress


def check() -> dict[str, Any]:
    """Check the rows of the file and return the result."""
    path, directory = Path(sys.argv[1]), Path(sys.argv[2])
    request = CheckRequest.model_validate(json.loads(Path(sys.argv[3]).read_text(encoding="utf-8")))
    try:
        chat = tokenizer.load(directory).using(request.chat_template_kwargs)
        result = CheckResult(counts=row_check.count_rows(_rows(path), chat, request.row_rules))
    except UnusableTokenizer as error:
        result = CheckResult(error=CheckError(code=str(error.code), message=error.message))
    except RowError as error:
        result = CheckResult(unchecked=str(error))
    return {"result": result.model_dump(mode="json")}


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    progress = Progress()
    for number, row in enumerate(read_rows(path)):
        progress(number)
        yield row


if __name__ == "__main__":
    sys.exit(limited_process.main(check))
