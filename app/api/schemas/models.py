"""Bodies of `/v1/models`."""

from typing import Literal

from pydantic import ConfigDict, Field

from app.api.pagination import Item
from app.core.files.tables import File
from app.core.jobs.lineage import Lineage
from app.core.spec.described import Described


class ModelObject(Item):
    """A base model, or an adapter that this project may use."""

    object: Literal["model"] = "model"
    created: int = Field(description="Unix seconds.")
    owned_by: str
    """`system` for a base model, else the id of the project that owns the adapter."""
    base_model: str | None = Field(default=None, description="The base model of an adapter.")
    job_id: str | None = Field(default=None, description="The job that trained an adapter.")
    step: int | None = Field(default=None, description="The step of a checkpoint; null for a published model.")
    aliases: list[str] = Field(
        default=[], description="Other names: set by the operator for a base model, by the project for its own."
    )


class BaseModelFacts(Described):
    """The base model of an adapter, or the model itself."""

    name: str
    """Name of the base model on this server."""
    hub_id: str | None = Field(
        default=None, description="Its repository on the Hugging Face hub; null if known on this server only."
    )
    revision: str | None = Field(default=None, description="The commit in that repository, if known.")
    licence: str | None = Field(default=None, description="The licence as the hub states it, such as `apache-2.0`.")
    context_length: int | None = Field(description="Most tokens of prompt and answer together, if its config says so.")


class DataFile(Described):
    """A data file of the job that trained a model."""

    id: str
    """Id of the file."""
    filename: str | None = Field(default=None, description="Null if the file is deleted.")
    sha256: str | None = Field(default=None, description="Null if the file is deleted.")

    @classmethod
    def of(cls, file_id: str, file: File | None) -> "DataFile":
        """Return the wire form of a file that may be deleted."""
        return cls(id=file_id) if file is None else cls(id=file_id, filename=file.filename, sha256=file.sha256)


class ParentModel(Described):
    """A model that training started from."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    """Name of the model."""
    job_id: str | None = Field(description="Null if the model is deleted or no longer shared with this project.")


class HeldOutValues(Described):
    """Held-out results at a step."""

    model_config = ConfigDict(from_attributes=True)

    step: int
    """The step of the evaluation; 0 before training."""
    values: dict[str, float | None] = Field(description="By metric, such as `eval/accuracy`.")


class ModelEvaluation(Described):
    """Held-out results before training and of the model."""

    before: HeldOutValues | None = Field(description="Of the model that training started from.")
    after: HeldOutValues | None = Field(description="Null for a checkpoint whose step was not evaluated.")


class ModelLineage(Described):
    """How a model was made."""

    method: str
    """The method that trained the model."""
    seed: int
    """The job's seed."""
    training_file: DataFile
    """The file that the job learned from."""
    validation_file: DataFile | None
    """The file with the held-out rows; null without one."""
    test_file: DataFile | None
    """The file with the held-out rows that report; null if half of the validation file does."""
    parents: list[ParentModel] = Field(
        description="The model that training started from, then the one before it, and so on; empty if that was the "
        "base model."
    )
    evaluation: ModelEvaluation
    """Held-out results before and after training."""

    @classmethod
    def of(cls, lineage: Lineage) -> "ModelLineage":
        """Return the wire form."""
        job = lineage.job
        held_out, test = job.validation_file, job.test_file
        return cls(
            method=job.spec["method"],
            seed=job.spec["seed"],
            training_file=DataFile.of(job.training_file, lineage.training_file),
            validation_file=None if held_out is None else DataFile.of(held_out, lineage.validation_file),
            test_file=None if test is None else DataFile.of(test, lineage.test_file),
            parents=[ParentModel.model_validate(parent) for parent in lineage.parents],
            evaluation=ModelEvaluation.model_validate(lineage, from_attributes=True),
        )


class ModelDetails(ModelObject):
    """A model with the facts that the list leaves out."""

    base: BaseModelFacts | None = Field(default=None, description="Null if the base model is not on this server.")
    bytes: int | None = Field(default=None, description="Size of an adapter's files; null while they cannot be read.")
    sha256: str | None = Field(default=None, description="SHA-256 of an adapter's weights.")
    rank: int | None = Field(default=None, description="Rank of an adapter's matrices.")
    lineage: ModelLineage | None = Field(
        default=None, description="How an adapter was made; null for a base model and for another project's adapter."
    )


class ModelList(Described):
    """All models; this list is not paginated."""

    object: Literal["list"] = "list"
    data: list[ModelObject]
    """The models."""


class ModelDeleted(Described):
    """The adapter is deleted."""

    id: str
    """The model."""
    object: Literal["model"] = "model"
    deleted: Literal[True] = True
