"""`POST /v1/fine_tuning/jobs/validate`: the checks of job creation, without creating a job."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import ValidationError

from app.api.deps import Config, Db, JobLimits, Lints, RowChecks, Store
from app.api.schemas.create_job import CreateJob
from app.api.schemas.jobs import RowUse
from app.api.schemas.validate_job import JobPlan, Validation, ValidationProblem
from app.api.validation_errors import explain_each
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.errors import InvalidRequest
from app.core.files import uploads
from app.core.files.validation_report import FileReport
from app.core.jobs import lint_queue, row_checks, submission
from app.core.jobs.submission import ValidatedJob, find_overlap
from app.core.lint.report import LintReport
from app.core.models import registry, weights
from app.core.settings import Settings
from app.core.spec.plan import resolve

router = APIRouter(prefix="/fine_tuning/jobs", tags=["Fine-tuning"])


@router.post("/validate", dependencies=[needs(Scope.jobs_write)])
def validate_job(
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
        validated = submission.validate_request(session, caller.project_id, request, limits)
        if validated.problems:
            problems = [_problem(job.as_sent(problem)) for problem in validated.problems]
            return Validation(valid=False, errors=problems, plan=None)
        file_ids = (job.training_file, job.validation_file)
        files = [uploads.find_file(session, caller.project_id, file_id) if file_id else None for file_id in file_ids]
        overlap = find_overlap(session, job.training_file, job.validation_file)
    try:
        validated.check_start(store)
    except InvalidRequest as problem:
        return Validation(valid=False, errors=[_problem(job.as_sent(problem))], plan=None)
    reports = [
        None if file is None or file.report is None else FileReport.model_validate(file.report) for file in files
    ]
    checked = rows.of_job(caller.project_id, request, validated)
    use = {name: RowUse.model_validate(one) for name, one in row_checks.shown(checked.results).items()}
    plan = _plan(validated, reports[0], reports[1], use, settings)
    lint = lints.of_job(caller.project_id, validated.spec, job.training_file)
    problems = [_problem(job.as_sent(problem)) for problem in row_checks.problems(validated.spec, checked.results)]
    problems += [] if lint is None else _no_contrast(job, validated, lint)
    notices = (*request.notices, *checked.notices, *row_checks.warnings(checked.results))
    warnings = [ValidationProblem(**vars(notice)) for notice in notices]
    if overlap is not None:
        warnings.append(ValidationProblem(code="held_out_overlap", message=str(overlap), param="validation_file"))
    return Validation(
        valid=not problems,
        errors=problems,
        warnings=warnings,
        rows=use.get("rows"),
        held_out_rows=use.get("held_out_rows"),
        plan=None if problems else plan,
        lint=lint,
    )


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
) -> JobPlan | None:
    """Return the plan; None while the number of rows or the size of the model is unknown."""
    if training is None or validated.base_model is None:
        return None
    model = registry.resolve(validated.base_model, settings.models_dir)
    parameters = weights.count(model.directory) or (model.entry.parameters if model.entry else None)
    if parameters is None:
        return None
    rows = use["rows"].used if "rows" in use else training.rows
    held_out = 0 if validation is None else validation.rows
    held_out = use["held_out_rows"].used if "held_out_rows" in use else held_out
    if not rows:
        return None
    plan = resolve(validated.spec, rows=rows, held_out_rows=held_out, parameters=parameters)
    return JobPlan.of(validated.spec, plan, parameters, rows, held_out)
