"""Models on the wire."""

from typing import Literal

from pydantic import BaseModel, Field

from app.api.pagination import Item


class ModelObject(Item):
    """A base model that is there, or an adapter that this project may use."""

    object: Literal["model"] = "model"
    created: int = Field(description="Unix seconds.")
    owned_by: str
    base_model: str | None = Field(default=None, description="What an adapter was trained on.")
    job_id: str | None = Field(default=None, description="The job that trained an adapter.")
    step: int | None = Field(default=None, description="The step of a checkpoint; null for what a job published.")
    aliases: list[str] = Field(default=[], description="Other names that the operator gave a base model.")


class ModelList(BaseModel):
    """All models; this list has no pages."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ModelDeleted(BaseModel):
    """The adapter is gone."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True
