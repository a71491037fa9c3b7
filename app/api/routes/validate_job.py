"""`POST /v1/fine_tuning/jobs/validate`: what creating a job would say, without creating it."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body
from pydantic import ValidationError

from app.api import token_lengths
from app.api.deps import Config, Db, Lints, Store
from app.api.schemas.create_job import CreateJob
from app.api.schemas.validate_job import JobPlan, Problem, Validation
from app.api.validation_errors import explain
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.chat import tokenizer
from app.core.chat.tokenizer import UnusableTokenizer
from app.core.errors import InvalidRequest
from app.core.files import uploads
from app.core.files.tables import File
from app.core.files.validation_report import FileReport
from app.core.jobs import lint_queue, submission
from app.core.jobs.submission import Examined, find_overlap
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
    body: Annotated[dict[str, Any], Body(description="The same as for `POST /v1/fine_tuning/jobs`.", max_length=64)],
    database: Db,
    store: Store,
    settings: Config,
    lints: Lints,
) -> Validation:
    """Check a job without creating it: every problem at once, or what each `auto` stands for and a lint of its file."""
    try:
        asked = CreateJob.model_validate(body)
    except ValidationError as error:
        found = [explain([{**one, "loc": ("body", *one["loc"])}], CreateJob, body) for one in error.errors()]
        problems = [Problem(code="invalid_request", message=message, param=param) for message, param in found]
        return Validation(valid=False, errors=problems, plan=None)
    with database.transaction() as session:
        examined = submission.examine(
            session,
            caller.project_id,
            asked.application(),
            settings.models_dir,
            settings.model_aliases,
            settings.trackers,
            caller.limits.priority,
            submission.Teachers(settings.teacher_url, settings.private_hosts),
        )
        if examined.problems:
            wrong = map(asked.as_sent, examined.problems)
            problems = [Problem(code=one.code, message=one.message, param=one.param) for one in wrong]
            return Validation(valid=False, errors=problems, plan=None)
        files = (asked.training_file, asked.validation_file)
        found_files = [uploads.find_file(session, caller.project_id, one) if one else None for one in files]
        overlap = find_overlap(session, asked.training_file, asked.validation_file)
    reports = [
        None if one is None or one.report is None else FileReport.model_validate(one.report) for one in found_files
    ]
    plan = _plan(examined, reports[0], reports[1], settings)
    lint = lints.of_job(caller.project_id, examined.spec, asked.training_file)
    problems = [] if lint is None else _no_contrast(asked, examined, lint)
    warnings = _long_rows(examined, found_files[0], reports[0], store, settings)
    if overlap is not None:
        warnings.append(Problem(code="held_out_overlap", message=str(overlap), param="validation_file"))
    return Validation(
        valid=not problems, errors=problems, warnings=warnings, plan=None if problems else plan, lint=lint
    )


def _long_rows(
    examined: Examined, file: File | None, report: FileReport | None, store: BlobStore, settings: Settings
) -> list[Problem]:
    """Nothing while the file is validated or the model is not there."""
    if file is None or report is None or examined.base_model is None:
        return []
    model = registry.resolve(examined.base_model, settings.models_dir)
    if not model.is_pulled:
        return []
    limit = model.fitting(examined.spec.hyperparameters.max_length)
    try:
        chat = tokenizer.load(model.directory)
    except UnusableTokenizer as error:
        return [Problem(code=error.code, message=error.message, param="model")]
    with store.open(file.rows[0]) as stream:
        over = token_lengths.too_long(stream, report, chat, limit)
    if not over:
        return []
    shown = ", ".join(f"line {one.line} has {one.total:,}" for one in over[:_SHOWN_ROWS])
    count = f"{len(over)} or more" if len(over) == len(report.longest) < report.rows else f"{len(over)}"
    message = (
        f"{count} of {report.rows:,} training rows have more than {limit:,} tokens ({shown}): what does not fit is "
        "left out of training. Shorten them, or raise hyperparameters.max_length."
    )
    return [Problem(code="rows_too_long", message=message, param="training_file")]


def _no_contrast(asked: CreateJob, examined: Examined, lint: LintReport) -> list[Problem]:
    try:
        lint_queue.refuse_if_nothing(lint, examined.spec)
    except InvalidRequest as error:
        sent = asked.as_sent(error)
        return [Problem(code=sent.code, message=sent.message, param=sent.param)]
    return []


def _plan(
    examined: Examined, training: FileReport | None, validation: FileReport | None, settings: Settings
) -> JobPlan | None:
    """None while a number that it follows from is not known: rows of a file, weights of a model."""
    if training is None or examined.base_model is None:
        return None
    model = registry.resolve(examined.base_model, settings.models_dir)
    parameters = weights.count(model.directory) or (model.entry.parameters if model.entry else None)
    if parameters is None:
        return None
    held_out = 0 if validation is None else validation.rows
    found = resolve(examined.spec, rows=training.rows, held_out_rows=held_out, parameters=parameters)
    return JobPlan.of(examined.spec, found, parameters, training.rows, held_out)
