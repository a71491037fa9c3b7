"""Trackers that a job's metrics go to besides this service. Where they are is for the operator to say."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from app.core.spec.frozen import Frozen

Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Tags = Annotated[tuple[Name, ...], Field(max_length=32)]


class WandbSettings(Frozen):
    """As at OpenAI."""

    project: Annotated[Name, Field(description="The project of the run.")]
    name: Annotated[Name | None, Field(description="The job's id if absent.")] = None
    entity: Annotated[Name | None, Field(description="A team; the key's own if absent.")] = None
    tags: Tags = ()


class WandbIntegration(Frozen):
    """Weights & Biases."""

    type: Literal["wandb"]
    wandb: WandbSettings


class MlflowSettings(Frozen):
    """What a run of MLflow is called."""

    experiment: Annotated[Name, Field(description="Made if there is none.")]
    run_name: Annotated[Name | None, Field(description="The job's id if absent.")] = None


class MlflowIntegration(Frozen):
    """MLflow."""

    type: Literal["mlflow"]
    mlflow: MlflowSettings


class TensorboardIntegration(Frozen):
    """Event files in a directory of the worker."""

    type: Literal["tensorboard"]


class TrackioSettings(Frozen):
    """What a run of Trackio is called."""

    project: Annotated[Name, Field(description="The project of the run.")]
    name: Annotated[Name | None, Field(description="The job's id if absent.")] = None


class TrackioIntegration(Frozen):
    """Trackio."""

    type: Literal["trackio"]
    trackio: TrackioSettings


Integration = Annotated[
    WandbIntegration | MlflowIntegration | TensorboardIntegration | TrackioIntegration, Field(discriminator="type")
]
MAX_INTEGRATIONS = 5
