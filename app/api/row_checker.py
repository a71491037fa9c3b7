"""Checks the rows of small files while clients wait, within a time budget."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from app.api.slow_work import SlowPools
from app.core.chat import row_check, tokenizer
from app.core.chat.tokenizer import UnusableTokenizer
from app.core.db import Database
from app.core.deadline import Deadline
from app.core.errors import InvalidRequest
from app.core.files import uploads
from app.core.files.tables import File, FileStatus
from app.core.files.validation_report import FileReport
from app.core.jobs import control_requests, row_checks
from app.core.jobs.row_checks import CheckError, CheckRequest, CheckResult
from app.core.jobs.submission import JobRequest, Notice, ValidatedJob
from app.core.models import registry
from app.core.models.registry import BaseModel
from app.core.spec.control import control_spec
from app.core.spec.rows import RowError, read_rows
from app.core.storage.blobs import BlobStore

MAX_ROWS: Final = 5_000
MAX_BYTES: Final = 8_000_000
SECONDS: Final = 3.0
"""For each file."""


@dataclass(frozen=True)
class CheckedRows:
    """The checks of a job's rows."""

    requests: dict[str, CheckRequest] = field(default_factory=dict)
    """By parameter; empty if the model's tokenizer is not on this server."""
    results: dict[str, CheckResult | None] = field(default_factory=dict)
    """By parameter, of validated files; None for a check that a worker has to make."""
    notices: tuple[Notice, ...] = ()
    """What was not checked, and why."""


@dataclass(frozen=True)
class CheckedControl:
    """The checks of a control's rows."""

    requests: dict[str, CheckRequest] = field(default_factory=dict)
    """By parameter, as in `CheckedRows`."""
    problems: tuple[InvalidRequest, ...] = ()
    """Why the control cannot use the files, as problems of the field `control`."""


class RowChecker:
    """Checks the rows of jobs."""

    def __init__(self, database: Database, store: BlobStore, models_dir: Path, slow: SlowPools) -> None:
        self._database = database
        self._store = store
        self._models_dir = models_dir
        self._slow = slow

    async def of_job(self, request: Request, project_id: str, job: JobRequest, validated: ValidatedJob) -> CheckedRows:
        """Find or make the checks of a job without problems. Files that are not validated yet are left to a worker."""
        if validated.base_model is None:
            return CheckedRows()
        model = registry.resolve(validated.base_model, self._models_dir)
        requests = await run_in_threadpool(row_checks.requests_of, validated.spec, model, job.files)
        if not requests:
            return CheckedRows(notices=(_not_checked(model),))
        results = {}
        for param, check in requests.items():
            file, known = await run_in_threadpool(self._find, project_id, job.files[param], check)
            if file is None or file.status != FileStatus.processed or file.report is None:
                continue
            if known is None and _is_small(file):
                work = partial(self._make, file, model, check)
                known = await self._slow.rendering.run_if_free(request, project_id, work)
            results[param] = known
        return CheckedRows(requests, results)

    async def of_control(
        self, request: Request, project_id: str, job: JobRequest, validated: ValidatedJob
    ) -> CheckedControl:
        """Find or make the checks of the control of a job without problems, as `of_job`. None without a control."""
        if validated.spec.control is None:
            return CheckedControl()
        spec = control_spec(validated.spec)
        checked = await self.of_job(request, project_id, replace(job, spec=spec), replace(validated, spec=spec))
        found = row_checks.problems(spec, checked.results)
        problems = tuple(control_requests.as_problem(validated.spec, problem) for problem in found)
        return CheckedControl(checked.requests, problems)

    def _find(self, project_id: str, file_id: str, check: CheckRequest) -> tuple[File | None, CheckResult | None]:
        """Return the file and its stored check."""
        with self._database.transaction() as session:
            file = uploads.find_file(session, project_id, file_id)
            return file, None if file is None else row_checks.find(session, file.id, check.key)

    def _make(self, file: File, model: BaseModel, request: CheckRequest, deadline: Deadline) -> CheckResult | None:
        """Make and store a check of a small file; None if it takes too long."""
        try:
            chat = tokenizer.load(model.directory).using(request.chat_template_kwargs)
            limit = Deadline(deadline.left(SECONDS))
            with limit.applied(), self._store.as_file(file.rows[0], lambda: None) as path:
                counts = row_check.count_rows(read_rows(path), chat, request.row_rules)
            result = CheckResult(counts=counts)
        except UnusableTokenizer as error:
            result = CheckResult(error=CheckError(code=str(error.code), message=error.message))
        except (TimeoutError, RowError):
            return None
        with self._database.transaction() as session:
            row_checks.store(session, file.id, request, result)
        return result


def _is_small(file: File) -> bool:
    report = FileReport.model_validate(file.report)
    return report.rows <= MAX_ROWS and report.bytes <= MAX_BYTES


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
