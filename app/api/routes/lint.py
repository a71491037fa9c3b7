"""Lint routes: the training signal in a file's expert and teacher answers, before and after a job is created."""

from fastapi import APIRouter, Request

from app.api.deps import Config, Db, Lints, Slow
from app.api.ids import FileId, JobId
from app.api.schemas.lint import FileLint, JobLint, LintFile
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.deadline import Deadline
from app.core.errors import InvalidRequest
from app.core.files import uploads
from app.core.graders.registry import waits
from app.core.jobs import queries
from app.core.jobs.grader_services import check_services
from app.core.lint.run import WHILE_WAITING, Budget

router = APIRouter()


@router.post("/files/{file_id}/lint", tags=["Files"], dependencies=[needs(Scope.jobs_write)])
async def lint_file(
    request: Request,
    caller: Caller,
    file_id: FileId,
    body: LintFile,
    database: Db,
    lints: Lints,
    settings: Config,
    slow: Slow,
) -> FileLint:
    """Grade the file's expert and teacher answers, and report which of them fail and which groups would teach nothing.

    A large file is sampled, and grading stops after 15 seconds; the report says so.
    """

    def lint(deadline: Deadline) -> FileLint:
        with database.transaction() as session:
            file = uploads.get_file(session, caller.project_id, file_id)
        report = lints.lint(file, body.grader, body.group, deadline, Budget(body.answers, WHILE_WAITING.seconds))
        return FileLint(file_id=file.id, summary=report.summary(), offer=report.offer(), report=report)

    if waits(body.grader) and not body.remote:
        raise InvalidRequest(
            "This grader sends a request to another server for each answer, which may cost money. Send `remote: true` "
            "to allow that.",
            param="remote",
        )
    check_services(body.grader, "grader", settings.judge_url, settings.private_hosts)
    return await slow.grader(body.grader).run(request, caller.project_id, lint)


@router.get("/fine_tuning/jobs/{job_id}/lint", tags=["Fine-tuning"], dependencies=[needs(Scope.jobs_read)])
def job_lint(caller: Caller, job_id: JobId, database: Db) -> JobLint:
    """Return the lint report of a job's training file. A worker creates it right after the job is created."""
    with database.reading() as session:
        return JobLint.of(queries.get_job(session, caller.project_id, job_id))
