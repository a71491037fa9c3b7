"""Bodies of `/v1/model_aliases`."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from app.api.ids import MAX_MODEL_NAME
from app.core.models.tables import ModelAlias
from app.core.spec.described import Described


class MoveAlias(Described):
    """The model that the alias should name."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[
        str, Field(max_length=MAX_MODEL_NAME, description="A fine-tuned model or checkpoint of this project.")
    ]


class AliasObject(Described):
    """A name for a model, accepted wherever a model's id is."""

    id: str = Field(description="The alias.")
    object: Literal["model_alias"] = "model_alias"
    model: str = Field(description="The model that it names.")
    moved_at: int = Field(description="Unix seconds.")

    @classmethod
    def of(cls, alias: ModelAlias) -> "AliasObject":
        """Return the wire form of a row."""
        return cls(id=alias.name, model=alias.model, moved_at=int(alias.moved_at.timestamp()))


class AliasList(Described):
    """All aliases of the project."""

    object: Literal["list"] = "list"
    data: list[AliasObject]
    """The aliases."""


class AliasDeleted(Described):
    """The alias is deleted."""

    id: str
    """The alias."""
    object: Literal["model_alias"] = "model_alias"
    deleted: Literal[True] = True
