"""Bodies of `/v1/models`."""

from typing import Literal

from pydantic import BaseModel, Field

from app.api.pagination import Item


class ModelObject(Item):
    """A base model, or an adapter that this project may use."""

    object: Literal["model"] = "model"
    created: int = Field(description="Unix seconds.")
    owned_by: str
    base_model: str | None = Field(default=None, description="The base model of an adapter.")
    job_id: str | None = Field(default=None, description="The job that trained an adapter.")
    step: int | None = Field(default=None, description="The step of a checkpoint; null for a published model.")
    aliases: list[str] = Field(default=[], description="Other names of a base model, set by the operator.")


class ModelList(BaseModel):
    """All models; this list is not paginated."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ModelDeleted(BaseModel):
    """The adapter is deleted."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True
