"""Which model a request's `model` names: a tuned model, a checkpoint, an alias, a shared model or a base model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core import ids
from app.core.errors import InvalidRequest, NotFound
from app.core.inference.missing_models import missing, unknown
from app.core.jobs.tables import Job
from app.core.models import registry
from app.core.models.adapters import check_files, find_adapter
from app.core.models.tables import TrainedModel
from app.core.settings import Settings


@dataclass(frozen=True)
class ServedModel:
    """A model that an inference request may use."""

    id: str
    """Its own name, never an alias: responses contain it."""
    base: registry.BaseModel
    adapter: TrainedModel | None = None
    """None for a base model. The row is detached: read its columns only."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """Of its job's chat template."""


def resolve(session: Session, project_id: str, name: str, settings: Settings) -> ServedModel:
    """Return the model that `name` stands for in this project.

    Raises `NotFound` with `param` "model" and the code `model_not_found` for a model that does not exist or that this
    project may not use, `model_not_ready` while its job is unfinished, `model_not_pulled`, `model_removed` and
    `checkpoint_removed`. Raises `AdapterMissing` for a checkpoint without the adapter's files.
    """
    adapter = find_adapter(session, project_id, name)
    if adapter is not None:
        check_files(adapter)
        base = _pulled(registry.resolve(adapter.base_model, settings.models_dir))
        return ServedModel(adapter.id, base, adapter, _variables(session, adapter))
    if name.startswith(ids.FINE_TUNED):
        raise missing(session, project_id, name)
    try:
        base = registry.resolve(name, settings.models_dir, settings.model_aliases)
    except InvalidRequest as error:
        raise unknown(name) from error
    return ServedModel(base.name, _pulled(base))


def _variables(session: Session, adapter: TrainedModel) -> Mapping[str, Any]:
    found = session.scalars(select(Job.spec["chat_template_kwargs"]).where(Job.id == adapter.job_id))
    variables: dict[str, Any] | None = found.one_or_none()
    return variables or {}


def _pulled(base: registry.BaseModel) -> registry.BaseModel:
    if not base.is_pulled:
        raise NotFound(
            f"The base model '{base.name}' is not on this server yet. The first job that uses it downloads it, and so "
            f"does `grouptune models pull {base.name}`.",
            param="model",
            code="model_not_pulled",
        )
    return base
