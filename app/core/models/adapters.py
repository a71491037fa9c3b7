"""Trained adapters by name: a project's own, and those that other projects share with it."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from sqlalchemy import ColumnElement, Select, func, or_, select
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest, NotFound
from app.core.ids import FINE_TUNED
from app.core.models import registry
from app.core.models.tables import CheckpointPermission, ModelAlias, TrainedModel

ADAPTER_FILES: Final = ("adapter_config.json", "adapter_model.safetensors")
"""Files of an adapter in PEFT's format."""
CARD: Final = "README.md"


class AdapterMissing(InvalidRequest):
    """The checkpoint holds only the trainer's state, no adapter."""

    code = "adapter_missing"


def _usable_by(project_id: str) -> ColumnElement[bool]:
    shared = select(CheckpointPermission.id).where(
        CheckpointPermission.model == TrainedModel.id, CheckpointPermission.project_id == project_id
    )
    return or_(TrainedModel.project_id == project_id, shared.exists())


def _aliased(project_id: str, name: str) -> Select[str]:
    return select(ModelAlias.model).where(ModelAlias.project_id == project_id, ModelAlias.name == name)


def _resolve_alias(session: Session, project_id: str, name: str) -> str:
    """Return the id that the project's alias `name` stands for, or `name` itself."""
    return session.scalar(_aliased(project_id, name)) or name


def list_adapters(session: Session, project_id: str) -> list[TrainedModel]:
    """Return all adapters that the project can train on or download, newest first."""
    usable = select(TrainedModel).where(_usable_by(project_id), TrainedModel.has_adapter)
    return list(session.scalars(usable.order_by(TrainedModel.created_at.desc(), TrainedModel.id)))


def usable_adapters(session: Session, project_id: str, names: Collection[str]) -> dict[str, TrainedModel]:
    """Return those of the adapters called `names` that the project can use, by name."""
    usable = select(TrainedModel).where(TrainedModel.id.in_(names), _usable_by(project_id))
    return {adapter.id: adapter for adapter in session.scalars(usable)}


def find_adapter(session: Session, project_id: str, name: str, *, lock: bool = False) -> TrainedModel | None:
    """Return the adapter with this id or alias if the project owns it or may use it.

    `lock` locks it against deletion, and against other callers that lock it.
    """
    # One query, because every inference request needs it.
    named = func.coalesce(_aliased(project_id, name).scalar_subquery(), name)
    usable = select(TrainedModel).where(TrainedModel.id == named, _usable_by(project_id))
    if lock:
        usable = usable.with_for_update(key_share=True, of=TrainedModel)
    return session.scalars(usable).one_or_none()


def get_adapter(session: Session, project_id: str, name: str, *, lock: bool = False) -> TrainedModel:
    """Return the adapter as `find_adapter` does. Raises `NotFound` instead of returning None."""
    adapter = find_adapter(session, project_id, name, lock=lock)
    if adapter is None:
        raise NotFound(f"There is no fine-tuned model '{name}' in this project.", code="model_not_found")
    return adapter


def get_own(session: Session, project_id: str, name: str, *, lock: bool = False) -> TrainedModel:
    """Return an adapter that this project owns; `lock` locks its row. Raises `NotFound`."""
    own = select(TrainedModel).where(TrainedModel.id == name, TrainedModel.project_id == project_id)
    if lock:
        own = own.with_for_update()
    adapter = session.scalars(own, execution_options={"populate_existing": True}).one_or_none()
    if adapter is None:
        raise NotFound(f"This project owns no fine-tuned model '{name}'.", code="model_not_found")
    return adapter


def check_files(adapter: TrainedModel) -> None:
    """Raises `AdapterMissing` for a checkpoint that was stored without its adapter."""
    if not adapter.has_adapter:
        raise AdapterMissing(
            f"The checkpoint '{adapter.id}' holds only the trainer's state, and only its own job can resume from it. "
            "Use the model that the job published.",
            param="model",
        )


def starting_point(
    session: Session, project_id: str, name: str, models_dir: Path, aliases: Mapping[str, str] | None = None
) -> tuple[str, TrainedModel | None]:
    """Return the canonical name of the base model that a job on `name` trains, and the adapter it starts from, if any.

    Locks the adapter against deletion until the transaction ends. Raises `InvalidRequest` with `param` "model".
    """
    name = _resolve_alias(session, project_id, name)
    if not name.startswith(FINE_TUNED):
        return registry.resolve(name, models_dir, aliases).name, None
    usable = select(TrainedModel).where(TrainedModel.id == name, _usable_by(project_id))
    adapter = session.scalars(usable.with_for_update(read=True, key_share=True, of=TrainedModel)).one_or_none()
    if adapter is None:
        raise InvalidRequest(
            f"There is no fine-tuned model '{name}' in this project. GET /v1/models lists the models.",
            param="model",
            code="model_not_found",
        )
    check_files(adapter)
    return registry.resolve(adapter.base_model, models_dir).name, adapter
