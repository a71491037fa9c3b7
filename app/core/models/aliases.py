"""A project's own names for its models. They are moved by hand or by a job whose gates passed."""

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest, NotFound
from app.core.models import registry
from app.core.models.adapters import check_files, get_own
from app.core.models.tables import ModelAlias


def list_aliases(session: Session, project_id: str) -> list[ModelAlias]:
    """All of the project's, by name."""
    own = select(ModelAlias).where(ModelAlias.project_id == project_id)
    return list(session.scalars(own.order_by(ModelAlias.name)))


def find_alias(session: Session, project_id: str, name: str) -> ModelAlias | None:
    """The alias, if the project has it."""
    return session.get(ModelAlias, (project_id, name), populate_existing=True)


def get_alias(session: Session, project_id: str, name: str) -> ModelAlias:
    """The same. Raises `NotFound`."""
    alias = find_alias(session, project_id, name)
    if alias is None:
        raise NotFound(f"This project has no alias '{name}'.", code="alias_not_found")
    return alias


def check_name(name: str, models_dir: Path, operator_aliases: Mapping[str, str]) -> None:
    """Raises `InvalidRequest` with `param` "alias" for a name that means a base model already."""
    taken = {base.name for base in registry.list_base_models(models_dir)} | operator_aliases.keys()
    if name in taken:
        raise InvalidRequest(f"'{name}' names a base model here; choose another alias.", param="alias")


def move(session: Session, project_id: str, name: str, model: str) -> ModelAlias:
    """Makes `name` stand for one of the project's own models. Raises `NotFound`, and `InvalidRequest` without files."""
    check_files(get_own(session, project_id, model, lock=True))
    values = {"project_id": project_id, "name": name, "model": model}
    change = {"model": model, "moved_at": func.now()}
    session.execute(
        insert(ModelAlias).values(values).on_conflict_do_update(index_elements=["project_id", "name"], set_=change)
    )
    return get_alias(session, project_id, name)


def remove(session: Session, project_id: str, name: str) -> ModelAlias:
    """Deletes the alias, never the model. Raises `NotFound`."""
    alias = get_alias(session, project_id, name)
    session.delete(alias)
    session.flush()
    return alias


def names_of(session: Session, model: str) -> list[str]:
    """The aliases that name a model."""
    return list(session.scalars(select(ModelAlias.name).where(ModelAlias.model == model).order_by(ModelAlias.name)))
