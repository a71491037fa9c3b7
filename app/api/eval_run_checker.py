"""Checks the data source of a new run of an eval while its client waits: every row, and the model."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from app.api.schemas.eval_runs import CreateEvalRun, FileContent
from app.core.db import Database
from app.core.deadline import Deadline
from app.core.errors import InvalidRequest
from app.core.evals import checks, prompts, questions, rows, samplers
from app.core.evals.records import get_eval, read_criteria
from app.core.evals.rows import SourceRow
from app.core.evals.runs import RunRequest
from app.core.evals.tables import Eval
from app.core.files import uploads
from app.core.files.tables import File, FileStatus
from app.core.graders.toolbox import Toolbox
from app.core.inference.engines import Engines
from app.core.inference.models import ServedModel
from app.core.settings import Settings
from app.core.spec.evals import SamplerSpec
from app.core.storage.blobs import BlobMissing, BlobStore

SOURCE: Final = "data_source.source"
_FIELDS: Final = {
    "messages": prompts.INPUT_MESSAGES,
    "tools": "data_source.sampling_params.tools",
    "tool_choice": "data_source.sampling_params.tools",
    "response_format": "data_source.sampling_params.response_format",
    "reasoning_effort": "data_source.sampling_params.reasoning_effort",
}
"""Fields of a chat, and where a run has them."""


class EvalRunChecker:
    """Checks new runs. Call it in a pool of slow work."""

    def __init__(
        self, database: Database, store: BlobStore, settings: Settings, engines: Engines, tools: Toolbox
    ) -> None:
        self._database, self._store, self._settings = database, store, settings
        self._engines, self._tools = engines, tools

    def check(self, project_id: str, eval_id: str, body: CreateEvalRun, deadline: Deadline) -> RunRequest:
        """Return the run to create. Raises `NotFound`, and `InvalidRequest` with the field of the request."""
        sampler, served = body.sampler, None
        with self._database.reading() as session:
            parent = get_eval(session, project_id, eval_id)
            if sampler is not None:
                sampler = samplers.locate(session, project_id, sampler, self._settings)
            if sampler is not None and sampler.base_url is None and not sampler.is_operators:
                served = samplers.served(session, project_id, sampler, self._settings)
                # An alias that moves before the run ends must not mix the answers of two models.
                sampler = sampler.model_copy(update={"model": served.id})
        found, digest = rows.collect(self._rows(project_id, body), SOURCE)
        self._check_rows(parent, found, sampler, deadline)
        if sampler is not None and served is not None:
            self._check_first(served, sampler, found[0])
        return RunRequest(
            name=body.name,
            labels=body.metadata,
            data_source=body.stored_source(),
            sampler=sampler,
            rows=found,
            digest=digest,
        )

    def _rows(self, project_id: str, body: CreateEvalRun) -> Iterator[SourceRow]:
        source = body.data_source.source
        if isinstance(source, FileContent):
            content = [row.model_dump(mode="json") for row in source.content]
            yield from rows.of_content(content, f"{SOURCE}.content")
            return
        with self._database.reading() as session:
            file = uploads.find_file(session, project_id, source.id)
        _check_file(file, source.id)
        assert file is not None  # noqa: S101 - `_check_file`
        try:
            stream = self._store.open(file.rows[0])
        except BlobMissing as error:
            raise _no_file(source.id) from error
        with stream:
            yield from rows.of_file(stream, SOURCE)

    def _check_rows(
        self, parent: Eval, found: Sequence[SourceRow], sampler: SamplerSpec | None, deadline: Deadline
    ) -> None:
        checks.check_rows(found, read_criteria(parent.testing_criteria), sampler, SOURCE)
        schema: dict[str, Any] = parent.data_source_config["item_schema"]
        checks.check_schema(found, schema, self._tools.until(deadline))

    def _check_first(self, served: ServedModel, sampler: SamplerSpec, row: SourceRow) -> None:
        """Raise `InvalidRequest` for settings that the model cannot honour in the first row."""
        prompt = prompts.prompt_of(sampler, row)
        try:
            loaded = questions.load_tokenizer(served, sampler)
            questions.ask(loaded, self._engines.context_length(served.base), sampler, prompt)
        except InvalidRequest as error:
            field = _FIELDS.get((error.param or "").partition(".")[0], samplers.MODEL)
            raise InvalidRequest(f"{row.place}: {error.message}", param=field, code=error.code) from error


def _check_file(file: File | None, file_id: str) -> None:
    if file is None:
        raise _no_file(file_id)
    if file.purpose != uploads.TRAINING_PURPOSE:
        return
    if file.status == FileStatus.uploaded:
        message = f"The file '{file_id}' is not validated yet. Wait until its `status` is `processed`."
        raise InvalidRequest(message, param=f"{SOURCE}.id", code="file_not_ready")
    if file.status == FileStatus.error:
        message = f"The file '{file_id}' has errors. {file.status_details}"
        raise InvalidRequest(message, param=f"{SOURCE}.id", code="invalid_file")


def _no_file(file_id: str) -> InvalidRequest:
    message = f"There is no file '{file_id}' in this project. Upload one with purpose 'evals'."
    return InvalidRequest(message, param=f"{SOURCE}.id", code="file_not_found")
