"""`GET /v1/files/{id}/preview`: rows through a model's own chat template, with its tokens and the loss mask."""

from collections.abc import Iterable
from itertools import islice
from typing import Annotated, BinaryIO, Final

from fastapi import APIRouter, Query

from app.api import token_lengths
from app.api.deps import Config, Db, Store
from app.api.ids import MAX_MODEL_NAME, FileId
from app.api.pagination import MAX_LIMIT
from app.api.schemas.file_preview import FilePreview, PreviewRow, TokenLengths
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.chat import preview, tokenizer
from app.core.chat.tokenizer import ChatTokenizer
from app.core.db import Database
from app.core.errors import InvalidRequest
from app.core.files import reading, uploads
from app.core.files.reading import Line
from app.core.files.tables import File, FileStatus
from app.core.files.validation import MAX_FILE_BYTES
from app.core.files.validation_report import FileReport
from app.core.models import registry
from app.core.models.adapters import starting_point
from app.core.settings import Settings
from app.core.spec.job import Hyperparameters

DEFAULT_MAX_LENGTH: Final = Hyperparameters().max_length
MAX_PAGE_TOKENS: Final = 100_000
"""A page ends early once it shows so many."""

router = APIRouter()


@router.get("/{file_id}/preview", dependencies=[needs(Scope.files_read)])
def preview_file(
    caller: Caller,
    file_id: FileId,
    database: Db,
    store: Store,
    settings: Config,
    model: Annotated[
        str | None,
        Query(max_length=MAX_MODEL_NAME, description="As in a job; the first base model that is there if absent."),
    ] = None,
    after: Annotated[int, Query(ge=0, le=MAX_FILE_BYTES, description="Rows behind this line.")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Rows, at most; fewer of very long ones.")] = 10,
    max_length: Annotated[
        int | None,
        Query(
            ge=16,
            le=131_072,
            description="A job's `hyperparameters.max_length`, 2,048 if absent, or the model's own limit if that is "
            "less: longer rows are marked.",
        ),
    ] = None,
) -> FilePreview:
    """See rows as a model is trained on them: tokens, loss mask, sources, and how long the rows are."""
    with database.transaction() as session:
        file = uploads.get_file(session, caller.project_id, file_id)
    base = _base_model(database, caller.project_id, model, settings)
    report = _report(file)
    limit_tokens = base.fitting(max_length or DEFAULT_MAX_LENGTH)
    chat = tokenizer.load(base.directory)
    with store.open(file.rows[0]) as stream:
        lines = reading.rows_after(stream, report.places, after)
        rows, more = _shown(lines, chat, limit, limit_tokens)
        lengths = None if after else _lengths(stream, report, chat, limit_tokens)
    return FilePreview.model_construct(
        file_id=file.id,
        model=base.name,
        max_length=limit_tokens,
        data=[PreviewRow.of(row) for row in rows],
        has_more=more,
        lengths=lengths,
    )


def _base_model(database: Database, project_id: str, name: str | None, settings: Settings) -> registry.BaseModel:
    if name is not None:
        with database.transaction() as session:
            found, _ = starting_point(session, project_id, name, settings.models_dir, settings.model_aliases)
        model = registry.resolve(found, settings.models_dir)
        if model.is_pulled:
            return model
        missing = f"The base model '{model.name}' is not here yet"
    else:
        pulled = [one for one in registry.list_base_models(settings.models_dir) if one.is_pulled]
        if pulled:
            return pulled[0]
        missing, name = "No base model is here yet", "NAME"
    raise InvalidRequest(
        f"{missing}, so its tokenizer cannot be asked: grouptune models pull {name}",
        param="model",
        code="model_not_pulled",
    )


def _report(file: File) -> FileReport:
    """Of a file whose rows can be shown. Raises `InvalidRequest`."""
    match file.status:
        case FileStatus.uploaded:
            raise InvalidRequest("The file is not validated yet; wait until it is `processed`.", code="file_not_ready")
        case FileStatus.error:
            details = file.status_details or "see its report"
            raise InvalidRequest(f"The file has errors: {details}", code="invalid_file")
    if file.report is None:
        raise InvalidRequest(
            f"Files with the purpose '{file.purpose}' hold no rows; '{uploads.TRAINING_PURPOSE}' files do.",
            code="invalid_file",
        )
    return FileReport.model_validate(file.report)


def _shown(
    lines: Iterable[Line], chat: ChatTokenizer, limit: int, max_length: int
) -> tuple[list[preview.ShownRow], bool]:
    """At most `limit` rows and whether there are more."""
    rows: list[preview.ShownRow] = []
    tokens = 0
    for line in islice(lines, limit + 1):
        if len(rows) == limit or tokens > MAX_PAGE_TOKENS:
            return rows, True
        rows.append(preview.show(line.number, line.content, chat, max_length))
        tokens += sum(len(span.piece.ids) for span in rows[-1].spans)
    return rows, False


def _lengths(stream: BinaryIO, report: FileReport, chat: ChatTokenizer, max_length: int) -> TokenLengths:
    found = token_lengths.sampled(stream, report, chat)
    longest = token_lengths.too_long(stream, report, chat, max_length)
    return TokenLengths.of(found, longest, report.rows, max_length)
