"""`POST /v1/fine_tuning/jobs/validate`: the checks of job creation, without creating a job."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body
from pydantic import ValidationError

from app.api import token_lengths
from app.api.deps import Config, Db, JobLimits, Lints, Store
from app.api.schemas.create_job import CreateJob
from app.api.schemas.validate_job import JobPlan, Validation, ValidationProblem
from app.api.validation_errors import explain
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.chat import tokenizer
from app.core.chat.encoding import rules_of
from app.core.chat.tokenizer import UnusableTokenizer
from app.core.errors import InvalidRequest
from app.core.files import uploads
from app.core.files.tables import File
from app.core.files.validation_report import FileReport
from app.core.jobs import lint_queue, submission
from app.core.jobs.submission import ValidatedJob, find_overlap
from app.core.lint.report import LintReport
from app.core.models import registry, weights
from app.core.settings import Settings
from app.core.spec.plan import resolve
from app.core.storage.blobs import BlobStore

_SHOWN_ROWS: Final = 5

router = APIRouter(prefix="/fine_tuning/jobs", tags=["Fine-tuning"])


@router.post("/validate", dependencies=[needs(Scope.jobs_write)])
def validate_job(
    caller: Caller,
    body: Annotated[dict[str, Any], Body(description="The body of `POST /v1/fine_tuning/jobs`.", max_length=64)],
    database: Db,
    store: Store,
    settings: Config,
    lints: Lints,
    limits: JobLimits,
) -> Validation:
    """Check a job without creating it: list all problems, or resolve every `auto` and lint the training file."""
    try:
        job = CreateJob.model_validate(body)
    except ValidationError as error:
        explained = [explain([{**item, "loc": ("body", *item["loc"])}], CreateJob, body) for item in error.errors()]
        problems = [
            ValidationProblem(code="invalid_request", message=message, param=param) for message, param in explained
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
    reports = [
        None if file is None or file.report is None else FileReport.model_validate(file.report) for file in files
    ]
    plan = _plan(validated, reports[0], reports[1], settings)
    lint = lints.of_job(caller.project_id, validated.spec, job.training_file)
    problems = [] if lint is None else _no_contrast(job, validated, lint)
    warnings = [ValidationProblem(**vars(notice)) for notice in request.notices]
    warnings += _long_rows(validated, files[0], reports[0], store, settings)
    if overlap is not None:
        warnings.append(ValidationProblem(code="held_out_overlap", message=str(overlap), param="validation_file"))
    return Validation(
        valid=not problems, errors=problems, warnings=warnings, plan=None if problems else plan, lint=lint
    )


def _long_rows(
    validated: ValidatedJob, file: File | None, report: FileReport | None, store: BlobStore, settings: Settings
) -> list[ValidationProblem]:
    """Return a warning about rows that are too long; none while the file is being validated or the model is missing."""
    if file is None or report is None or validated.base_model is None:
        return []
    model = registry.resolve(validated.base_model, settings.models_dir)
    if not model.is_pulled:
        return []
    rules = rules_of(validated.spec, model.context_length)
    try:
        chat = tokenizer.load(model.directory).using(validated.spec.chat_template_kwargs)
    except UnusableTokenizer as error:
        return [ValidationProblem(code=error.code, message=error.message, param="model")]
    with store.open(file.rows[0]) as stream:
        over = token_lengths.too_long(stream, report, chat, rules)
    if not over:
        return []
    shown = ", ".join(f"line {row.line} has {row.total:,}" for row in over[:_SHOWN_ROWS])
    count = f"{len(over)} or more" if len(over) == len(report.longest) < report.rows else f"{len(over)}"
    message = (
        f"{count} of {report.rows:,} training rows have more than {rules.max_length:,} tokens ({shown}). "
        "Training leaves out what does not fit. Shorten them, or raise hyperparameters.max_length."
    )
    return [ValidationProblem(code="rows_too_long", message=message, param="training_file")]


def _no_contrast(job: CreateJob, validated: ValidatedJob, lint: LintReport) -> list[ValidationProblem]:
    try:
        lint_queue.refuse_if_nothing(lint, validated.spec)
    except InvalidRequest as error:
        return [_problem(job.as_sent(error))]
    return []


def _problem(error: InvalidRequest) -> ValidationProblem:
    return ValidationProblem(code=error.code, message=error.message, param=error.param)


def _plan(
    validated: ValidatedJob, training: FileReport | None, validation: FileReport | None, settings: Settings
) -> JobPlan | None:
    """Return the plan; None while the number of rows or the size of the model is unknown."""
    if training is None or validated.base_model is None:
        return None
    model = registry.resolve(validated.base_model, settings.models_dir)
    parameters = weights.count(model.directory) or (model.entry.parameters if model.entry else None)
    if parameters is None:
        return None
    held_out = 0 if validation is None else validation.rows
    plan = resolve(validated.spec, rows=training.rows, held_out_rows=held_out, parameters=parameters)
    return JobPlan.of(validated.spec, plan, parameters, training.rows, held_out)
