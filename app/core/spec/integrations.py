"""External trackers that also receive a job's metrics. The operator configures their addresses."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from app.core.spec.frozen import Frozen

Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Tags = Annotated[tuple[Name, ...], Field(max_length=32)]


class WandbSettings(Frozen):
    """OpenAI's fields."""

    project: Annotated[Name, Field(description="The project of the run.")]
    name: Annotated[Name | None, Field(description="Defaults to the job's id.")] = None
    entity: Annotated[Name | None, Field(description="A team. Defaults to the team of the API key.")] = None
    tags: Tags = ()
    """Tags of the run."""


class WandbIntegration(Frozen):
    """Weights & Biases."""

    type: Literal["wandb"]
    wandb: WandbSettings
    """Names of the run."""


class MlflowSettings(Frozen):
    """Names of an MLflow run."""

    experiment: Annotated[Name, Field(description="Created if it does not exist.")]
    run_name: Annotated[Name | None, Field(description="Defaults to the job's id.")] = None


class MlflowIntegration(Frozen):
    """MLflow."""

    type: Literal["mlflow"]
    mlflow: MlflowSettings
    """Names of the run."""


class TensorboardIntegration(Frozen):
    """TensorBoard event files in a directory of the worker."""

    type: Literal["tensorboard"]


class TrackioSettings(Frozen):
    """Names of a Trackio run."""

    project: Annotated[Name, Field(description="The project of the run.")]
    name: Annotated[Name | None, Field(description="Defaults to the job's id.")] = None


class TrackioIntegration(Frozen):
    """Trackio."""

    type: Literal["trackio"]
    trackio: TrackioSettings
    """Names of the run."""


Integration = Annotated[
    WandbIntegration | MlflowIntegration | TensorboardIntegration | TrackioIntegration, Field(discriminator="type")
]
MAX_INTEGRATIONS = 5
