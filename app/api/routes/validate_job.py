"""`POST /v1/fine_tuning/jobs/validate`: the checks of job creation, without creating a job."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError

from app.api.deps import Config, Db, JobLimits, Lints, RowChecks, Store
from app.api.row_checker import CheckedControl, CheckedRows
from app.api.schemas.create_job import CreateJob
from app.api.schemas.jobs import RowUse
from app.api.schemas.validate_job import JobPlan, Validation, ValidationProblem
from app.api.validation_errors import explain_each
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.chat.encoding import Drop
from app.core.db import Database
from app.core.errors import InvalidRequest
from app.core.files import uploads
from app.core.files.validation_report import FileReport
from app.core.jobs import control_requests, lint_queue, row_checks
from app.core.jobs.submission import JobRequest, PromptOverlap, SubmissionLimits, ValidatedJob, find_overlaps
from app.core.lint.report import LintReport
from app.core.models import registry, weights
from app.core.settings import Settings
from app.core.spec.job import ImitationMethod, JobSpec
from app.core.spec.plan import resolve
from app.core.storage.blobs import BlobStore

router = APIRouter(prefix="/fine_tuning/jobs", tags=["Fine-tuning"])


@router.post("/validate", dependencies=[needs(Scope.jobs_write)])
async def validate_job(
    request: Request,
    caller: Caller,
    body: Annotated[dict[str, Any], Body(description="The body of `POST /v1/fine_tuning/jobs`.", max_length=64)],
    database: Db,
    store: Store,
    settings: Config,
    lints: Lints,
    rows: RowChecks,
    limits: JobLimits,
) -> Validation:
    """Check a job without creating it: list all problems, or resolve every `auto` and lint the training file."""
    found = await run_in_threadpool(_check, caller.project_id, body, database, store, limits)
    if isinstance(found, Validation):
        return found
    checked = await rows.of_job(request, caller.project_id, found.request, found.validated)
    lint = await lints.of_job(request, caller.project_id, found.validated.spec, found.job.training_file)
    of_control = await rows.of_control(request, caller.project_id, found.request, found.validated)
    return await run_in_threadpool(_result, found, checked, of_control, lint, settings)


@dataclass(frozen=True)
class _ValidJob:
    """A job without problems so far."""

    job: CreateJob
    request: JobRequest
    validated: ValidatedJob
    reports: tuple[FileReport | None, FileReport | None]
    """Those of the training file and the validation file."""
    overlaps: list[PromptOverlap]


def _check(
    project_id: str, body: dict[str, Any], database: Database, store: BlobStore, limits: SubmissionLimits
) -> _ValidJob | Validation:
    """Check what needs no time: the fields, the files and the model."""
    try:
        job = CreateJob.model_validate(body)
    except ValidationError as error:
        found = [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
        problems = [
            ValidationProblem(code="invalid_request", message=message, param=param)
            for message, param in explain_each(found, CreateJob, body)
        ]
        return Validation(valid=False, errors=problems, plan=None)
    request = job.to_request()
    with database.transaction() as session:
        validated = control_requests.validate_request(session, project_id, request, limits)
        if validated.problems:
            problems = [_problem(job.as_sent(problem)) for problem in validated.problems]
            return Validation(valid=False, errors=problems, plan=None)
        training, validation = (
            _report(session, project_id, file_id) for file_id in (job.training_file, job.validation_file)
        )
        overlaps = find_overlaps(session, request.files)
    validated = validated.resolve_start(store)
    if validated.problems:
        return Validation(valid=False, errors=[_problem(job.as_sent(each)) for each in validated.problems], plan=None)
    return _ValidJob(job, request, validated, (training, validation), overlaps)


def _report(session: Any, project_id: str, file_id: str | None) -> FileReport | None:
    file = uploads.find_file(session, project_id, file_id) if file_id else None
    return None if file is None or file.report is None else FileReport.model_validate(file.report)


def _result(
    found: _ValidJob, checked: CheckedRows, of_control: CheckedControl, lint: LintReport | None, settings: Settings
) -> Validation:
    job, validated = found.job, found.validated
    use = {name: RowUse.model_validate(one) for name, one in row_checks.shown(checked.results).items()}
    share = 1.0
    if lint is not None and lint.passing_share is not None and _leaves_out_rows(validated.spec):
        share = lint.passing_share
        if "rows" in use:
            use["rows"] = _passing(use["rows"], share)
    plan = _plan(validated, *found.reports, use, settings, share)
    lost = chain(row_checks.problems(validated.spec, checked.results), of_control.problems)
    problems = [_problem(job.as_sent(problem)) for problem in lost]
    problems += [] if lint is None else _no_contrast(job, validated, lint)
    notices = (*found.request.notices, *checked.notices, *row_checks.warnings(checked.results))
    warnings = [ValidationProblem(**vars(notice)) for notice in notices]
    warnings += [
        ValidationProblem(code="held_out_overlap", message=str(overlap), param=overlap.param)
        for overlap in found.overlaps
    ]
    return Validation(
        valid=not problems,
        errors=problems,
        warnings=warnings,
        rows=use.get("rows"),
        held_out_rows=use.get("held_out_rows"),
        test_rows=use.get("test_rows"),
        plan=None if problems else plan,
        lint=lint,
    )


def _leaves_out_rows(spec: JobSpec) -> bool:
    """Return whether the job leaves out rows whose demonstration does not pass. Groups keep them, without an expert."""
    return spec.grades_demonstrations and isinstance(spec.settings, ImitationMethod)


def _passing(use: RowUse, share: float) -> RowUse:
    """Return the rows that an imitation job uses if this share of the demonstrations passes its grader."""
    kept = round(use.used * share)
    return RowUse(used=kept, dropped={**use.dropped, Drop.demonstration_rejected: use.used - kept})


def _no_contrast(job: CreateJob, validated: ValidatedJob, lint: LintReport) -> list[ValidationProblem]:
    try:
        lint_queue.refuse_if_nothing(lint, validated.spec)
    except InvalidRequest as error:
        return [_problem(job.as_sent(error))]
    return []


def _problem(error: InvalidRequest) -> ValidationProblem:
    return ValidationProblem(code=error.code, message=error.message, param=error.param)


def _plan(
    validated: ValidatedJob,
    training: FileReport | None,
    validation: FileReport | None,
    use: Mapping[str, RowUse],
    settings: Settings,
    passing_share: float,
) -> JobPlan | None:
    """Return the plan; None while the number of rows or the size of the model is unknown."""
    if training is None or validated.base_model is None:
        return None
    model = registry.resolve(validated.base_model, settings.models_dir)
    sizes = weights.sizes(model.directory)
    parameters = sizes.parameters if sizes else (model.entry.parameters if model.entry else None)
    if parameters is None:
        return None
    rows = use["rows"].used if "rows" in use else round(training.rows * passing_share)
    held_out = 0 if validation is None else validation.rows
    held_out = use["held_out_rows"].used if "held_out_rows" in use else held_out
    if not rows:
        return None
    plan = resolve(validated.spec, rows=rows, parameters=sizes.active if sizes else parameters)
    return JobPlan.of(validated.spec, plan, parameters, rows, held_out)
