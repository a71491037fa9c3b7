"""Bodies of `/v1/models/{model}/exports` and `/v1/exports`."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from app.api.pagination import Item
from app.core.exports.tables import Export, ExportStatus
from app.core.spec.described import Described
from app.core.spec.export import ExportFormat, Manifest, Quantization
from app.core.spec.frozen import Frozen


class CreateExport(Frozen):
    """The export to make. An equal one that is unfinished or has succeeded is returned instead of a new one."""

    format: Annotated[
        ExportFormat,
        Field(
            description="`merged`: the adapter merged into its base, one plain transformers model. `gguf`: the same "
            "for llama.cpp. `gguf-lora`: the adapter alone for llama.cpp. `ollama`: a directory for `ollama create`. "
            "`push`: a repository on the Hugging Face hub."
        ),
    ]
    quantization: Annotated[
        Quantization | None,
        Field(description="Number format of the weights; null for the format's default."),
    ] = None
    repository: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$",
            max_length=193,
            description="`owner/name` to push to. It is created if it does not exist.",
        ),
    ] = None
    private: Annotated[bool | None, Field(description="Whether the repository is private: by default it is.")] = None
    merged: Annotated[bool | None, Field(description="Push the merged model instead of the adapter.")] = None
    hub_token: Annotated[
        SecretStr | None,
        Field(
            min_length=1,
            max_length=1024,
            description="Token that may write to the repository, stored encrypted until the push ends and never "
            "returned; the server's own token (`GROUPTUNE_HUB_TOKEN`) if null.",
        ),
    ] = None


class ExportErrorObject(Described):
    """Why an export failed."""

    code: str
    """Stable identifier for programs; docs/export.md lists the codes."""
    message: str
    """What is wrong and how to fix it."""


class ExportObject(Item):
    """An export of a model. Poll it until `status` is `succeeded`, `failed` or `cancelled`."""

    object: Literal["model.export"] = "model.export"
    model: str
    """The exported model."""
    format: ExportFormat
    """The kind of artefact."""
    quantization: Quantization | None
    """Number format of the weights; null for formats that keep the model's own."""
    repository: str | None = Field(description="The repository that the model is pushed to.")
    private: bool | None
    """Whether the repository is private; null for formats other than `push`."""
    merged: bool | None
    """Whether the merged model is pushed instead of the adapter; null for formats other than `push`."""
    status: ExportStatus
    """The state of the export."""
    progress: float = Field(description="From 0 to 1.")
    stage: str | None = Field(description="What the worker does now, in words.")
    error: ExportErrorObject | None
    """Why the export failed; null unless it did."""
    bytes: int | None = Field(description="Size of the archive.")
    sha256: str | None = Field(description="Digest of the archive.")
    manifest: Manifest | None = Field(description="The files, the check against the unmerged model, and versions.")
    created_at: int = Field(description="Unix seconds.")
    started_at: int | None
    """Unix seconds; null until a worker has started it."""
    finished_at: int | None
    """Unix seconds; null until it has ended."""
    expires_at: int | None = Field(description="When the export is removed.")

    @classmethod
    def of(cls, export: Export) -> "ExportObject":
        """Return the export as clients see it."""
        return cls(
            id=export.id,
            model=export.model,
            format=ExportFormat(export.format),
            quantization=export.options.get("quantization"),
            repository=export.options.get("repository"),
            private=export.options.get("private"),
            merged=export.options.get("merged"),
            status=ExportStatus(export.status),
            progress=export.progress,
            stage=export.stage if export.status == ExportStatus.running else None,
            error=None if export.error is None else ExportErrorObject(**export.error),
            bytes=export.bytes,
            sha256=export.sha256,
            manifest=None if export.manifest is None else Manifest.model_validate(export.manifest),
            created_at=int(export.created_at.timestamp()),
            started_at=_seconds(export.started_at),
            finished_at=_seconds(export.finished_at),
            expires_at=_seconds(export.expires_at),
        )


def _seconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())


class ExportDeleted(Described):
    """The export and its archive are deleted."""

    id: str
    """The export."""
    object: Literal["model.export"] = "model.export"
    deleted: Literal[True] = True
