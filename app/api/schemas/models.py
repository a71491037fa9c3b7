"""Models on the wire."""

from typing import Literal

from pydantic import BaseModel, Field

from app.api.pagination import Item


class ModelObject(Item):
    """A base model that is there, or an adapter of this project."""

    object: Literal["model"] = "model"
    created: int = Field(description="Unix seconds.")
    owned_by: str
    base_model: str | None = Field(default=None, description="What an adapter was trained on.")
    job_id: str | None = Field(default=None, description="The job that trained an adapter.")


class ModelList(BaseModel):
    """All models; this list has no pages."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ModelDeleted(BaseModel):
    """The adapter is gone."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True
