"""Trained adapters of a project, by name."""

from pathlib import Path
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest, NotFound
from app.core.models import registry
from app.core.models.tables import TrainedModel

FINE_TUNED: Final = "ft:"
"""How the names of trained models begin."""


def list_adapters(session: Session, project_id: str) -> list[TrainedModel]:
    """All of a project, newest first."""
    mine = select(TrainedModel).where(TrainedModel.project_id == project_id)
    return list(session.scalars(mine.order_by(TrainedModel.created_at.desc(), TrainedModel.id)))


def find_adapter(session: Session, project_id: str, name: str) -> TrainedModel | None:
    """The adapter called `name`, if this project has it."""
    mine = select(TrainedModel).where(TrainedModel.id == name, TrainedModel.project_id == project_id)
    return session.scalars(mine).one_or_none()


def get_adapter(session: Session, project_id: str, name: str) -> TrainedModel:
    """The adapter called `name`. Raises `NotFound`, also for those of other projects."""
    adapter = find_adapter(session, project_id, name)
    if adapter is None:
        raise NotFound(f"There is no fine-tuned model '{name}' in this project.", code="model_not_found")
    return adapter


def starting_point(session: Session, project_id: str, name: str, models_dir: Path) -> tuple[str, TrainedModel | None]:
    """What a job on the model `name` starts from: a base model's canonical name and the adapter on it, if any.

    Raises `InvalidRequest` with `param` "model".
    """
    if not name.startswith(FINE_TUNED):
        return registry.resolve(name, models_dir).name, None
    adapter = find_adapter(session, project_id, name)
    if adapter is None:
        raise InvalidRequest(
            f"There is no fine-tuned model '{name}' in this project; GET /v1/models lists those there are.",
            param="model",
            code="model_not_found",
        )
    return registry.resolve(adapter.base_model, models_dir).name, adapter


def delete_adapter(session: Session, project_id: str, name: str) -> TrainedModel:
    """Deletes the row and returns it; delete its blobs after the commit. Raises `NotFound`."""
    adapter = get_adapter(session, project_id, name)
    session.delete(adapter)
    session.flush()
    return adapter
