"""Checks the rows of small files while clients wait: a few at once, each within a time budget."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from app.core.chat import row_check, tokenizer
from app.core.chat.tokenizer import UnusableTokenizer
from app.core.db import Database
from app.core.files import uploads
from app.core.files.tables import File, FileStatus
from app.core.files.validation_report import FileReport
from app.core.jobs import row_checks
from app.core.jobs.row_checks import CheckError, CheckRequest, CheckResult
from app.core.jobs.submission import JobRequest, Notice, ValidatedJob
from app.core.models import registry
from app.core.models.registry import BaseModel
from app.core.spec.rows import Row, RowError, read_rows
from app.core.storage.blobs import BlobStore

AT_ONCE: Final = 4
"""Each check occupies a server thread for seconds."""
MAX_ROWS: Final = 5_000
MAX_BYTES: Final = 8_000_000
SECONDS: Final = 3.0


@dataclass(frozen=True)
class CheckedRows:
    """The checks of a job's rows."""

    requests: dict[str, CheckRequest] = field(default_factory=dict)
    """By parameter; empty if the model's tokenizer is not on this server."""
    results: dict[str, CheckResult | None] = field(default_factory=dict)
    """By parameter, of validated files; None for a check that a worker has to make."""
    notices: tuple[Notice, ...] = ()
    """What was not checked, and why."""


class RowCheckPool:
    """Checks rows in the server's own threads. Thread-safe."""

    def __init__(self, database: Database, store: BlobStore, models_dir: Path) -> None:
        self._database = database
        self._store = store
        self._models_dir = models_dir
        self._slots = threading.BoundedSemaphore(AT_ONCE)

    def of_job(self, project_id: str, request: JobRequest, validated: ValidatedJob) -> CheckedRows:
        """Find or make the checks of a job without problems. Files that are not validated yet are left to a worker."""
        if validated.base_model is None:
            return CheckedRows()
        model = registry.resolve(validated.base_model, self._models_dir)
        file_ids = {"training_file": request.training_file, "validation_file": request.validation_file}
        requests = row_checks.requests_of(
            validated.spec, model, has_validation_file=request.validation_file is not None
        )
        if not requests:
            return CheckedRows(notices=(_not_checked(model),))
        deadline = time.monotonic() + SECONDS
        results = {}
        for param, check in requests.items():
            with self._database.transaction() as session:
                file = uploads.find_file(session, project_id, file_ids[param] or "")
                known = None if file is None else row_checks.find(session, file.id, check.key)
            if file is not None and file.status == FileStatus.processed and file.report is not None:
                results[param] = known or self._make(file, model, check, deadline)
        return CheckedRows(requests, results)

    def _make(self, file: File, model: BaseModel, request: CheckRequest, deadline: float) -> CheckResult | None:
        """Make and store a check of a small file; None if a worker has to make it."""
        report = FileReport.model_validate(file.report)
        if report.rows > MAX_ROWS or report.bytes > MAX_BYTES or not self._slots.acquire(blocking=False):
            return None
        try:
            chat = tokenizer.load(model.directory).using(request.chat_template_kwargs)
            with self._store.as_file(file.rows[0], lambda: None) as path:
                counts = row_check.count_rows(_until(deadline, path), chat, request.row_rules)
            result = CheckResult(counts=counts)
        except UnusableTokenizer as error:
            result = CheckResult(error=CheckError(code=str(error.code), message=error.message))
        except (TimeoutError, RowError):
            return None
        finally:
            self._slots.release()
        with self._database.transaction() as session:
            row_checks.store(session, file.id, request, result)
        return result


def _until(deadline: float, path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a file. Raises `TimeoutError` after the deadline (of time.monotonic)."""
    for row in read_rows(path):
        if time.monotonic() > deadline:
            raise TimeoutError
        yield row


def _not_checked(model: BaseModel) -> Notice:
    if model.is_pulled:
        reason = f"the base model '{model.name}' has no {tokenizer.TOKENIZER_FILE}; its worker creates one"
        return Notice("rows_not_rendered", f"No row was rendered with the chat template: {reason}.", "model")
    return Notice(
        "model_not_pulled",
        f"The base model '{model.name}' is not on this server yet, so no row was rendered with its chat template or "
        f"counted in its tokens. Run: grouptune models pull {model.name}",
        "model",
    )
