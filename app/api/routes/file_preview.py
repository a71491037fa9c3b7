"""`GET /v1/files/{id}/preview`: rows rendered by a model's chat template, with their tokens and loss mask."""

from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Any, BinaryIO, Final, Literal

from fastapi import APIRouter, Query
from pydantic import TypeAdapter, ValidationError

from app.api import token_lengths
from app.api.deps import Config, Db, Store
from app.api.ids import MAX_MODEL_NAME, FileId
from app.api.pagination import MAX_LIMIT
from app.api.schemas.file_preview import FilePreview, PreviewRow, TokenLengths
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.chat import preview, tokenizer
from app.core.chat.encoding import RowRules
from app.core.chat.tokenizer import ChatTokenizer
from app.core.db import Database
from app.core.errors import InvalidRequest
from app.core.files import reading, uploads
from app.core.files.validation import MAX_FILE_BYTES
from app.core.files.validation_report import FileReport
from app.core.models import registry
from app.core.models.adapters import starting_point
from app.core.settings import Settings
from app.core.spec.job import Hyperparameters, TemplateVariables
from app.core.spec.json_lines import Line

DEFAULT_MAX_LENGTH: Final = Hyperparameters().max_length
MAX_PAGE_TOKENS: Final = 100_000
"""A page ends early once it shows this many tokens."""

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
        Query(
            max_length=MAX_MODEL_NAME, description="A model as in a job; the first base model on this server if absent."
        ),
    ] = None,
    after: Annotated[int, Query(ge=0, le=MAX_FILE_BYTES, description="Only rows after this line.")] = 0,
    limit: Annotated[
        int, Query(ge=1, le=MAX_LIMIT, description="Maximum number of rows; pages of very long rows have fewer.")
    ] = 10,
    turns: Annotated[
        Literal["all", "last"] | None,
        Query(
            description="`all`: every trained answer of a conversation, as `supervised` and `dft` train it. `last`: "
            "the final answer, as group methods do."
        ),
    ] = None,
    train_reasoning: Annotated[
        bool, Query(description="Whether the thoughts before an answer are trained, as in the job's method.")
    ] = True,
    chat_template_kwargs: Annotated[
        str | None, Query(max_length=4_096, description="Variables of the chat template, as a JSON object.")
    ] = None,
    max_length: Annotated[
        int | None,
        Query(
            ge=16,
            le=131_072,
            description="Marks rows with more tokens than this. If absent, 2,048, the default of a job's "
            "`hyperparameters.max_length`. A smaller limit of the model takes precedence.",
        ),
    ] = None,
) -> FilePreview:
    """Preview rows as a model is trained on them: tokens, loss mask, sources and row lengths."""
    with database.transaction() as session:
        file = uploads.get_file(session, caller.project_id, file_id)
    base = _base_model(database, caller.project_id, model, settings)
    report = uploads.valid_report(file)
    rules = _rules(turns, base.fitting(max_length or DEFAULT_MAX_LENGTH), train_reasoning)
    chat = tokenizer.load(base.directory).using(_variables(chat_template_kwargs))
    with store.open(file.rows[0]) as stream:
        lines = reading.rows_after(stream, report.places, after)
        rows, more = _shown(lines, chat, limit, rules)
        lengths = None if after else _lengths(stream, report, chat, rules)
    return FilePreview.model_construct(
        file_id=file.id,
        model=base.name,
        max_length=rules.max_length,
        data=[PreviewRow.of(row) for row in rows],
        has_more=more,
        lengths=lengths,
    )


def _base_model(database: Database, project_id: str, name: str | None, settings: Settings) -> registry.BaseModel:
    if name is not None:
        with database.transaction() as session:
            base_name, _ = starting_point(session, project_id, name, settings.models_dir, settings.model_aliases)
        model = registry.resolve(base_name, settings.models_dir)
        if model.is_pulled:
            return model
        problem = f"The base model '{model.name}' is not on this server yet"
    else:
        pulled = [base for base in registry.list_base_models(settings.models_dir) if base.is_pulled]
        if pulled:
            return pulled[0]
        problem, name = "No base model is on this server yet", "NAME"
    raise InvalidRequest(
        f"{problem}, so its tokenizer cannot be used. Download it: grouptune models pull {name}",
        param="model",
        code="model_not_pulled",
    )


def _shown(
    lines: Iterable[Line], chat: ChatTokenizer, limit: int, rules: RowRules
) -> tuple[list[preview.ShownRow], bool]:
    """Return at most `limit` rows, and whether more follow."""
    rows: list[preview.ShownRow] = []
    tokens = 0
    for line in islice(lines, limit + 1):
        if len(rows) == limit or tokens > MAX_PAGE_TOKENS:
            return rows, True
        rows.append(preview.show(line.number, line.content, chat, rules))
        tokens += sum(len(span.piece.ids) for span in rows[-1].spans)
    return rows, False


def _lengths(stream: BinaryIO, report: FileReport, chat: ChatTokenizer, rules: RowRules) -> TokenLengths:
    measured = token_lengths.sampled(stream, report, chat, rules)
    longest = token_lengths.too_long(stream, report, chat, rules)
    return TokenLengths.of(measured, longest, report.rows, rules.max_length)


def _rules(turns: Literal["all", "last"] | None, max_length: int, train_reasoning: bool) -> RowRules:
    """Return what the preview shows; without `turns`, all answers of a row."""
    return RowRules(
        turns=turns or "all",
        max_length=max_length,
        train_reasoning=train_reasoning,
        takes_teacher=turns != "all",
    )


def _variables(written: str | None) -> dict[str, Any]:
    """Parse the template variables of a query. Raises `InvalidRequest`."""
    try:
        return {} if written is None else TypeAdapter(TemplateVariables).validate_json(written)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InvalidRequest(
            f'`chat_template_kwargs` must be a JSON object such as {{"enable_thinking": false}}: {reason}',
            param="chat_template_kwargs",
        ) from error
