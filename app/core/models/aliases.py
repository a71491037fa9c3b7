"""Aliases: a project's own names for its models. A client moves them, or a job whose gates have passed."""

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
    """Return all aliases of the project, by name."""
    own = select(ModelAlias).where(ModelAlias.project_id == project_id)
    return list(session.scalars(own.order_by(ModelAlias.name)))


def find_alias(session: Session, project_id: str, name: str) -> ModelAlias | None:
    """Return the alias if the project has it."""
    return session.get(ModelAlias, (project_id, name), populate_existing=True)


def get_alias(session: Session, project_id: str, name: str) -> ModelAlias:
    """Return the alias as `find_alias` does. Raises `NotFound` instead of returning None."""
    alias = find_alias(session, project_id, name)
    if alias is None:
        raise NotFound(f"This project has no alias '{name}'.", code="alias_not_found")
    return alias


def check_name(name: str, models_dir: Path, operator_aliases: Mapping[str, str]) -> None:
    """Raises `InvalidRequest` with `param` "alias" if `name` is already the name or alias of a base model."""
    taken = {base.name for base in registry.list_base_models(models_dir)} | operator_aliases.keys()
    if name in taken:
        raise InvalidRequest(f"'{name}' names a base model here. Choose another alias.", param="alias")


def move(session: Session, project_id: str, name: str, model: str) -> ModelAlias:
    """Point the alias `name` to one of the project's own models. Raises `NotFound` and `AdapterMissing`."""
    check_files(get_own(session, project_id, model, lock=True))
    values = {"project_id": project_id, "name": name, "model": model}
    change = {"model": model, "moved_at": func.now()}
    session.execute(
        insert(ModelAlias).values(values).on_conflict_do_update(index_elements=["project_id", "name"], set_=change)
    )
    return get_alias(session, project_id, name)


def remove(session: Session, project_id: str, name: str) -> ModelAlias:
    """Delete the alias but not its model. Raises `NotFound`."""
    alias = get_alias(session, project_id, name)
    session.delete(alias)
    session.flush()
    return alias


def alias_names(session: Session, model: str) -> list[str]:
    """Return the aliases of a model."""
    return list(session.scalars(select(ModelAlias.name).where(ModelAlias.model == model).order_by(ModelAlias.name)))
