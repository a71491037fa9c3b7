"""`GET /v1/files/{id}/preview`: rows rendered by a model's chat template, with their tokens and loss mask."""

from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Any, BinaryIO, Final, Literal

from fastapi import APIRouter, Query, Request
from pydantic import TypeAdapter, ValidationError

from app.api.deps import Config, Db, Lengths, Slow, Store
from app.api.ids import MAX_MODEL_NAME, FileId
from app.api.pagination import MAX_LIMIT
from app.api.schemas.file_preview import FilePreview, PreviewRow, TokenLengths
from app.api.token_lengths import LengthCache, MeasuredFile
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.chat import preview, tokenizer
from app.core.chat.encoding import RowRules
from app.core.chat.tokenizer import ChatTokenizer
from app.core.db import Database
from app.core.deadline import Deadline
from app.core.errors import InvalidRequest
from app.core.files import reading, uploads
from app.core.files.validation import MAX_FILE_BYTES
from app.core.models import registry
from app.core.models.adapters import starting_point
from app.core.settings import Settings
from app.core.spec.job import Hyperparameters
from app.core.spec.json_lines import Line
from app.core.spec.template_variables import TemplateVariables

DEFAULT_MAX_LENGTH: Final = Hyperparameters().max_length
MAX_PAGE_BYTES: Final = 200_000
"""A page ends before the row that would exceed this size, unless it is the first one."""

router = APIRouter()


@router.get("/{file_id}/preview", dependencies=[needs(Scope.files_read)])
async def preview_file(
    request: Request,
    caller: Caller,
    file_id: FileId,
    database: Db,
    store: Store,
    settings: Config,
    cache: Lengths,
    slow: Slow,
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

    def render(_deadline: Deadline) -> FilePreview:
        with database.transaction() as session:
            file = uploads.get_file(session, caller.project_id, file_id)
        base = _base_model(database, caller.project_id, model, settings)
        report = uploads.valid_report(file)
        rules = _rules(turns, base.fitting(max_length or DEFAULT_MAX_LENGTH), train_reasoning)
        variables = _variables(chat_template_kwargs)
        chat = tokenizer.load(base.directory).using(variables)
        with store.open(file.rows[0]) as stream:
            lines = reading.rows_after(stream, report.places, after)
            rows, more = _shown(lines, chat, limit, rules)
            measured = MeasuredFile(file.id, report, base.directory, variables, rules)
            lengths = None if after else _lengths(cache, measured, stream, chat)
        return FilePreview.model_construct(
            file_id=file.id,
            model=base.name,
            max_length=rules.max_length,
            data=[PreviewRow.of(row) for row in rows],
            has_more=more,
            lengths=lengths,
        )

    return await slow.rendering.run(request, caller.project_id, render)


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
    size = 0
    for line in islice(lines, limit + 1):
        size += len(line.content)
        if len(rows) == limit or (rows and size > MAX_PAGE_BYTES):
            return rows, True
        rows.append(preview.show(line.number, line.content, chat, rules))
    return rows, False


def _lengths(cache: LengthCache, measured: MeasuredFile, stream: BinaryIO, chat: ChatTokenizer) -> TokenLengths:
    sampled, longest = cache.lengths(measured, stream, chat)
    limit = measured.rules.max_length
    over = [row for row in longest if max(row.total, row.prompt + measured.rules.max_new_tokens) > limit]
    over.sort(key=lambda row: (-row.total, row.line))
    return TokenLengths.of(sampled, over, measured.report.rows, limit)


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
