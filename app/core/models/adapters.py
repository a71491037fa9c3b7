"""Trained adapters of a project, by name."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.errors import NotFound
from app.core.models.tables import TrainedModel


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


def delete_adapter(session: Session, project_id: str, name: str) -> TrainedModel:
    """Deletes the row and returns it; delete its blobs after the commit. Raises `NotFound`."""
    adapter = get_adapter(session, project_id, name)
    session.delete(adapter)
    session.flush()
    return adapter
