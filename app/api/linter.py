"""Lints files while clients wait, within a time budget."""

from collections.abc import Callable
from functools import partial

import structlog
from fastapi import Request

from app.api.slow_work import SlowPools
from app.core.db import Database
from app.core.deadline import Deadline
from app.core.errors import GrouptuneError, InvalidRequest
from app.core.files import uploads
from app.core.files.tables import File, FileStatus
from app.core.files.validation_report import FileReport
from app.core.graders.run import GraderPool
from app.core.graders.toolbox import Toolbox
from app.core.jobs import lint_queue, submission
from app.core.lint.report import LintReport
from app.core.lint.run import BEFORE_ACCEPTING, WHILE_WAITING, Budget, lint_file
from app.core.lint.training_signal import Tally
from app.core.spec.graders import BaseGrader
from app.core.spec.job import GroupMix, JobSpec
from app.core.spec.rows import RowError
from app.core.storage.blobs import BlobStore

log = structlog.get_logger(__name__)


class Linter:
    """Lints files with the server's own graders."""

    def __init__(self, database: Database, store: BlobStore, tools: Toolbox, slow: SlowPools) -> None:
        self._database = database
        self._store = store
        self._tools = tools
        self._slow = slow

    def lint(
        self,
        file: File,
        grader: BaseGrader,
        mix: GroupMix,
        deadline: Deadline,
        budget: Budget = WHILE_WAITING,
        *,
        until: Callable[[Tally], bool] = lambda _tally: False,
    ) -> LintReport:
        """Return the report on a stored file. Call it in a pool of slow work.

        Raises `InvalidRequest` if it is not valid training data.
        """
        counts = _counts(file)
        try:
            with (
                self._store.as_file(file.rows[0], lambda: None) as path,
                GraderPool(grader, tools=self._tools, deadline=deadline) as pool,
            ):
                return lint_file(path, counts, pool, mix, budget, until=until)
        except RowError as error:
            raise InvalidRequest(f"The file '{file.id}' has errors. {error}", code="invalid_file") from error

    async def of_job(self, request: Request, project_id: str, spec: JobSpec, training_file: str) -> LintReport | None:
        """Return the report on a job's training file, or None if the file cannot be linted now.

        Raises as `submission.check_file`.
        """
        grader = spec.settings.grader
        if grader is None or not lint_queue.is_due(spec):
            return None
        work = partial(self._of_job, project_id, spec, grader, training_file, WHILE_WAITING)
        return await self._slow.grading.run_if_free(request, project_id, work)

    def _of_job(
        self,
        project_id: str,
        spec: JobSpec,
        grader: BaseGrader,
        training_file: str,
        budget: Budget,
        deadline: Deadline,
    ) -> LintReport | None:
        file = self._ready(project_id, spec, training_file)
        return None if file is None else self.lint(file, grader, spec.group, deadline, budget)

    def passing_share(self, project_id: str, spec: JobSpec, training_file: str, deadline: Deadline) -> float | None:
        """Return the share of the demonstrations that pass the grader, for a job that trains only those.

        None for other jobs, and while it cannot be found. Call it in a pool of slow work.
        """
        grader = spec.settings.grader
        if grader is None or not spec.grades_demonstrations or not lint_queue.is_due(spec):
            return None
        try:
            report = self._of_job(project_id, spec, grader, training_file, BEFORE_ACCEPTING, deadline)
        except GrouptuneError as error:  # an estimate counts all demonstrations then
            log.info("lint.no_share", reason=error.message)
            return None
        return None if report is None else report.passing_share

    async def sees_signal(self, request: Request, project_id: str, spec: JobSpec, training_file: str) -> bool:
        """Return True if lint proves that the job can learn something; False leaves the decision to a worker's lint.

        Raises `InvalidRequest` with the code `no_contrast` or `no_demonstration_passes` if all rows were graded and
        none would teach anything.
        Also raises as `submission.check_file`.
        """
        grader = spec.settings.grader
        if grader is None or not lint_queue.decides(spec):
            return False
        work = partial(self._sees_signal, project_id, spec, grader, training_file)
        return bool(await self._slow.grading.run_if_free(request, project_id, work))

    def _sees_signal(
        self, project_id: str, spec: JobSpec, grader: BaseGrader, training_file: str, deadline: Deadline
    ) -> bool:
        file = self._ready(project_id, spec, training_file)
        if file is None:
            return False
        until = partial(lint_queue.is_settled, spec)
        report = self.lint(file, grader, spec.group, deadline, BEFORE_ACCEPTING, until=until)
        if report.rows_graded == report.rows:
            lint_queue.refuse_if_nothing(report, spec)
        return lint_queue.is_settled(spec, report)

    def _ready(self, project_id: str, spec: JobSpec, file_id: str) -> File | None:
        with self._database.transaction() as session:
            submission.check_file(session, project_id, spec, file_id, "training_file")
            file = uploads.get_file(session, project_id, file_id)
        return file if file.status == FileStatus.processed and file.report is not None else None


def _counts(file: File) -> FileReport:
    if file.purpose != uploads.TRAINING_PURPOSE:
        message = (
            f"The file '{file.id}' has purpose '{file.purpose}'. Upload it with purpose '{uploads.TRAINING_PURPOSE}'."
        )
        raise InvalidRequest(message, code="invalid_file")
    if file.status == FileStatus.uploaded:
        raise InvalidRequest(f"The file '{file.id}' is not validated yet. Wait until its `status` is `processed`.")
    if file.status == FileStatus.error or file.report is None:
        raise InvalidRequest(f"The file '{file.id}' has errors. {file.status_details}", code="invalid_file")
    return FileReport.model_validate(file.report)
