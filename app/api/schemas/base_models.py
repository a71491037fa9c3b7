"""Bodies of `/v1/base_models`."""

import time
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from app.api.ids import MAX_MODEL_NAME
from app.core.models import registry
from app.core.models.hub_source import hub_source
from app.core.models.shape import shape_of
from app.core.models.tables import ModelPull, PullStatus
from app.core.spec.described import Described


class PullModel(Described):
    """The base model to download."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=MAX_MODEL_NAME)]
    """A name of the catalogue, such as `qwen3-0.6b`, or a repository of the Hugging Face hub, such as
    `Qwen/Qwen3-0.6B`. A repository outside the catalogue is called by its second part, in lower case."""


class PullObject(Described):
    """The last download of a base model."""

    status: PullStatus
    """`running` includes the conversion to bf16 safetensors."""
    stage: str | None
    """What the worker does now; null until it starts."""
    done_bytes: int | None
    """Bytes that are downloaded; null outside a download."""
    total_bytes: int | None
    """Bytes to download; null if unknown."""
    eta_seconds: float | None
    """Remaining time of the download at its average rate; null if unknown."""
    error: str | None
    """Why the download failed."""
    created_at: int
    """Unix seconds."""
    finished_at: int | None
    """Unix seconds; null while unfinished."""

    @classmethod
    def of(cls, pull: ModelPull) -> "PullObject":
        """Return the wire form of a row."""
        done, total = pull.done_bytes, pull.total_bytes
        done = done if done is None or total is None else min(done, total)
        eta = None
        if pull.status == PullStatus.running and done and total and pull.started_at:
            eta = max(0.0, time.time() - pull.started_at.timestamp()) * (total - done) / done
        return cls(
            status=PullStatus(pull.status),
            stage=pull.stage,
            done_bytes=done,
            total_bytes=total,
            eta_seconds=eta,
            error=pull.error,
            created_at=int(pull.created_at.timestamp()),
            finished_at=int(pull.finished_at.timestamp()) if pull.finished_at else None,
        )


class BaseModelObject(Described):
    """A base model of this server, or one that can be downloaded."""

    id: str
    """The name that jobs use as `model`."""
    object: Literal["base_model"] = "base_model"
    is_pulled: bool
    """Whether the model is on this server. Otherwise the first job that uses it downloads it."""
    hub_id: str | None
    """Its repository on the Hugging Face hub; null if known on this server only."""
    licence: str | None
    """The licence as the hub states it, such as `apache-2.0`; null if unknown."""
    parameters: int | None
    """Number of weights; null if unknown."""
    bytes: int | None
    """Size of the weights in bf16; null if unknown."""
    context_length: int | None
    """Most tokens of prompt and answer together; null if unknown."""
    pull: PullObject | None = None
    """The last download that was ordered through the API."""

    @classmethod
    def of(cls, base: registry.BaseModel, pull: ModelPull | None) -> "BaseModelObject":
        """Return the wire form. Reads the headers of the model's files."""
        entry, shape, source = base.entry, shape_of(base), hub_source(base.directory)
        context = base.context_length if base.is_pulled else entry.context_length if entry else None
        return cls(
            id=base.name,
            is_pulled=base.is_pulled,
            hub_id=source.hub_id if source else entry.hub_id if entry else None,
            licence=(source.licence if source else None) or (entry.licence if entry else None),
            parameters=(shape.parameters if shape else None) or None,
            bytes=(shape.bytes if shape else None) or None,
            context_length=context,
            pull=None if pull is None else PullObject.of(pull),
        )


class BaseModelList(Described):
    """The base models of this server and those of the catalogue."""

    object: Literal["list"] = "list"
    data: list[BaseModelObject]
    """By name."""
    can_pull: bool = Field(description="Whether a worker runs that downloads base models.")
    pull_command: str
    """The command that downloads a model on the server; MODEL stands for its name."""
