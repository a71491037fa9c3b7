"""Bodies of `POST /v1/evals/{id}/runs`, in OpenAI's format."""

import json
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator

from app.api.ids import MAX_ID, MAX_MODEL_NAME
from app.api.schemas.chat_completions import (
    MAX_TOOLS,
    Count,
    JsonObjectFormat,
    JsonSchemaFormat,
    ResponseFormat,
    Tool,
)
from app.api.schemas.evals import Metadata, Name, refusing
from app.core.evals.rows import MAX_ROWS
from app.core.spec.evals import InputMessages, SamplerSpec
from app.core.spec.frozen import Frozen
from app.core.spec.json_lines import MAX_DEPTH, nests_deeper

DEFAULT_SEED: Final = 42
_STORES_NOTHING: Final = "this server stores no completions and no responses. Upload the rows as a file"


class ContentRow(Frozen):
    """One row."""

    item: Annotated[dict[str, Any], Field(max_length=1000)]
    """The fields that criteria and input messages read as `item`."""
    sample: Annotated[dict[str, Any], Field(max_length=100)] | None = None
    """A stored answer, which criteria read as `sample`; only in a `jsonl` data source."""

    @field_validator("item", "sample")
    @classmethod
    def _is_like_a_line(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and nests_deeper(value, MAX_DEPTH - 1):  # the row itself is a level
            raise ValueError(f"is nested more than {MAX_DEPTH - 1} deep. Flatten it")
        # Python's JSON reader accepts NaN and numbers beyond a float's range; the stored row would have null instead.
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            raise ValueError("has a number that JSON cannot express (NaN or infinite). Replace it") from None
        return value


class FileContent(Frozen):
    """Rows in the request itself."""

    type: Literal["file_content"]
    content: Annotated[list[ContentRow], Field(min_length=1, max_length=MAX_ROWS)]
    """The rows. Lists of runs, and runs with more than 256 KiB of rows, show them as empty; the output items have
    them."""


class FileId(Frozen):
    """Rows of an uploaded file."""

    type: Literal["file_id"]
    id: Annotated[str, Field(min_length=1, max_length=MAX_ID)]
    """A JSONL file with lines `{"item": ..., "sample": ...}`, or a training file, whose rows are the items."""


Source = Annotated[
    FileContent | FileId,
    Field(discriminator="type"),
    refusing(
        "data_source.source",
        {
            "stored_completions": f"{_STORES_NOTHING}, and use the source 'file_id'.",
            "responses": f"{_STORES_NOTHING}, and use the source 'file_id'.",
        },
    ),
]


class RunSamplingParams(Frozen):
    """How answers are sampled."""

    max_completion_tokens: Count | None = Field(default=None, description="By default what the context has room for.")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Sampling temperature; 1 by default, and 0 always takes the most probable token."""
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Samples from the most probable tokens that together have this probability; 1 by default, 0 for only one."""
    seed: Annotated[int, Field(ge=0, le=2**53)] | None = None
    """Seed of the sampling of every row; 42 by default, so that a run can be repeated."""
    reasoning_effort: Annotated[str, Field(max_length=32)] | None = Field(
        default=None, description="A variable of the chat template, if it reads it."
    )
    response_format: ResponseFormat | None = None
    """The form of the answer: any text, a JSON object, or JSON that matches a schema."""
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    """The functions that the model may call."""

    def schema_of_text(self) -> dict[str, Any] | None:
        """Return the JSON schema of the answer's text, if it has one."""
        match self.response_format:
            case JsonObjectFormat():
                return {"type": "object"}
            case JsonSchemaFormat(json_schema=found):
                return found.schema_ or {}
            case _:
                return None


class CompletionsSource(Frozen):
    """Rows, and the model that answers them."""

    type: Literal["completions"]
    source: Source
    """The rows."""
    model: Annotated[str, Field(min_length=1, max_length=MAX_MODEL_NAME)]
    """A base model, a fine-tuned model (`ft:...`), one of its checkpoints, an alias, or a model of `base_url`."""
    base_url: Annotated[str, Field(min_length=1, max_length=2048)] | None = None
    """Address of an OpenAI-compatible server up to `/v1`, which answers instead of this one. The project's teacher key
    for its origin is used."""
    input_messages: InputMessages | None = None
    """What the model reads; by default the prompts of rows in the format of training files."""
    sampling_params: RunSamplingParams = RunSamplingParams()
    """How answers are sampled."""

    def sampler(self) -> SamplerSpec:
        """Return the sampler, with defaults filled in."""
        sent = self.sampling_params
        form = sent.response_format
        return SamplerSpec(
            model=self.model,
            base_url=self.base_url,
            input_messages=self.input_messages,
            max_completion_tokens=sent.max_completion_tokens,
            temperature=1.0 if sent.temperature is None else sent.temperature,
            top_p=1.0 if sent.top_p is None else sent.top_p,
            seed=DEFAULT_SEED if sent.seed is None else sent.seed,
            reasoning_effort=sent.reasoning_effort,
            json_schema=sent.schema_of_text(),
            response_format=None if form is None else form.model_dump(mode="json", by_alias=True, exclude_none=True),
            tools=tuple(sent.tools or ()),  # type: ignore[arg-type] # `Tool` leaves tools as they were sent
        )


class JsonlSource(Frozen):
    """Rows with stored answers, or criteria that need none: nothing is sampled."""

    type: Literal["jsonl"]
    source: Source
    """The rows."""


DataSource = Annotated[
    CompletionsSource | JsonlSource,
    Field(discriminator="type"),
    refusing(
        "data_source",
        {"responses": f"{_STORES_NOTHING}. To sample answers, use 'completions', which has the same fields."},
    ),
]


class CreateEvalRun(Frozen):
    """A run to create."""

    data_source: DataSource
    """The rows, and where their answers come from."""
    name: Name | None = None
    """By default the name of the model."""
    metadata: Metadata | None = None
    """Keys and values of your own."""

    @property
    def sampler(self) -> SamplerSpec | None:
        """The sampler; None for a run that grades stored answers."""
        return self.data_source.sampler() if isinstance(self.data_source, CompletionsSource) else None

    def stored_source(self) -> dict[str, Any]:
        """Return the data source as the database keeps it: without the rows of `file_content`."""
        sent = self.data_source.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
        if isinstance(self.data_source.source, FileContent):
            sent["source"]["content"] = []
        return sent
