"""Bodies of `/v1/evals`, in OpenAI's format."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from app.api.pagination import Item
from app.api.schemas.create_job import MetadataKey, MetadataValue
from app.api.schemas.openai_fields import problem
from app.api.schemas.strict_graders import as_openai_criterion
from app.core.evals.tables import Eval
from app.core.spec.described import Described
from app.core.spec.frozen import Frozen
from app.core.spec.graders import Grader, JsonSchema

MAX_CRITERIA: Final = 32
MAX_NAME: Final = 256
_ROW_FIELDS: Final = {"item": {"type": "object"}, "sample": {"type": "object"}}

Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]


def refusing(param: str, reasons: Mapping[str, str]) -> BeforeValidator:
    """Return a validator that refuses OpenAI's `type`s that this server does not have; `reasons` says why."""

    def check(value: object) -> object:
        kind = value.get("type") if isinstance(value, Mapping) else None
        if isinstance(kind, str) and kind in reasons:
            raise problem(f"{param}.type", f"'{param}.type' is '{kind}': {reasons[kind]}")
        return value

    return BeforeValidator(check)


class CustomDataSourceConfig(Frozen):
    """Describes the rows of the eval's runs."""

    type: Literal["custom"]
    item_schema: JsonSchema
    """JSON schema (draft 2020-12) of the items, which every row of a run must match."""
    include_sample_schema: bool = False
    """Whether rows are expected to have an answer, sampled or stored. Criteria may read it in any case."""


_STORED: Final = "this server stores no completions. Use 'custom' with an `item_schema`, and upload the rows as a file."
DataSourceConfig = Annotated[
    CustomDataSourceConfig,
    refusing("data_source_config", {"logs": _STORED, "stored_completions": _STORED}),
]


class CreateEval(Frozen):
    """An eval to create."""

    name: Name | None = None
    """By default the eval's id."""
    data_source_config: DataSourceConfig
    """The schema of the rows."""
    testing_criteria: Annotated[list[Grader], Field(min_length=1, max_length=MAX_CRITERIA)]
    """Graders with names of their own. A row passes if all of them pass."""
    metadata: Metadata | None = None
    """Keys and values of your own."""


class UpdateEval(Frozen):
    """The changes to an eval. An absent field stays as it is."""

    name: Name | None = None
    """The new name."""
    metadata: Metadata | None = None
    """Replaces all metadata; null removes it."""

    def changes(self) -> dict[str, Any]:
        """Return the columns to change."""
        changed: dict[str, Any] = {} if self.name is None else {"name": self.name}
        return changed | ({"labels": self.metadata} if "metadata" in self.model_fields_set else {})


class DataSourceConfigObject(Described):
    """Describes the rows of the eval's runs."""

    type: Literal["custom"] = "custom"
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    """JSON schema of a row: `item`, and `sample` if the eval includes it."""


class EvalObject(Item):
    """An eval."""

    object: Literal["eval"] = "eval"
    name: str
    """Its name."""
    data_source_config: DataSourceConfigObject
    """The schema of the rows."""
    testing_criteria: list[dict[str, Any]]
    """The graders with all defaults filled in; for strict clients in types of OpenAI's SDK."""
    metadata: dict[str, str] | None
    """Keys and values of the client."""
    created_at: int
    """Unix seconds."""
    updated_at: int
    """Unix seconds; changes with the name and the metadata."""

    @classmethod
    def of(cls, stored: Eval, *, strict: bool) -> "EvalObject":
        """Return the wire form; `strict` uses only types of OpenAI's SDK."""
        shown: Callable[[dict[str, Any]], dict[str, Any]] = as_openai_criterion if strict else dict
        row_schema = _row_schema(stored.data_source_config)
        return cls(
            id=stored.id,
            name=stored.name,
            data_source_config=DataSourceConfigObject.model_validate({"schema": row_schema}),
            testing_criteria=[shown(criterion) for criterion in stored.testing_criteria],
            metadata=stored.labels,
            created_at=int(stored.created_at.timestamp()),
            updated_at=int(stored.updated_at.timestamp()),
        )


def _row_schema(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a row, as OpenAI shows it."""
    names = ("item", "sample") if config["include_sample_schema"] else ("item",)
    properties = {name: _ROW_FIELDS[name] for name in names} | {"item": config["item_schema"]}
    return {"type": "object", "properties": properties, "required": list(names)}


class EvalDeleted(Described):
    """The eval and its runs are deleted."""

    object: Literal["eval.deleted"] = "eval.deleted"
    deleted: Literal[True] = True
    eval_id: str
    """The eval."""
