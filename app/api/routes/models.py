"""`/v1/models`."""

import re
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import StreamingResponse

from app.api.archive import tar_stream
from app.api.deps import Config, Db, Store
from app.api.ids import ModelName
from app.api.schemas.models import ModelDeleted, ModelList, ModelObject
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts import audit
from app.core.accounts.audit import Action
from app.core.accounts.scopes import Scope
from app.core.errors import InvalidRequest, NotFound
from app.core.models import adapters, registry
from app.core.models.tables import TrainedModel

router = APIRouter(prefix="/models", tags=["Models"])


def _base(model: registry.BaseModel) -> ModelObject:
    created = int((model.directory / "config.json").stat().st_mtime)
    return ModelObject(id=model.name, created=created, owned_by="system")


def _trained(adapter: TrainedModel) -> ModelObject:
    return ModelObject(
        id=adapter.id,
        created=int(adapter.created_at.timestamp()),
        owned_by=adapter.project_id,
        base_model=adapter.base_model,
        job_id=adapter.job_id,
    )


@router.get("", dependencies=[needs(Scope.models_read)])
def list_models(caller: Caller, database: Db, settings: Config) -> ModelList:
    """The base models that are there and this project's fine-tuned models."""
    with database.transaction() as session:
        trained = adapters.list_adapters(session, caller.project_id)
    bases = [model for model in registry.list_base_models(settings.models_dir) if model.is_pulled]
    return ModelList(data=[*map(_base, bases), *map(_trained, trained)])


# Names hold '/' and ':', so `{model:path}` takes all: this route comes before the one without a tail.
@router.get(
    "/{model:path}/download",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/x-tar": {}}, "description": "The adapter's files as a tar."}},
    dependencies=[needs(Scope.models_read)],
)
def download_model(caller: Caller, model: ModelName, database: Db, store: Store) -> StreamingResponse:
    """Download a fine-tuned model: PEFT adapter, its config and its README, as a tar."""
    with database.transaction() as session:
        adapter = adapters.get_adapter(session, caller.project_id, model)
    filename = re.sub(r"[^A-Za-z0-9._-]+", "-", adapter.id).strip("-")
    return StreamingResponse(
        tar_stream(store, adapter.blob),
        media_type="application/x-tar",
        headers={"content-disposition": f'attachment; filename="{filename}.tar"'},
    )


@router.get("/{model:path}", dependencies=[needs(Scope.models_read)])
def retrieve_model(caller: Caller, model: ModelName, database: Db, settings: Config) -> ModelObject:
    """One model, by its name here or by its hub id."""
    with database.transaction() as session:
        adapter = adapters.find_adapter(session, caller.project_id, model)
    return _trained(adapter) if adapter is not None else _base(_pulled(model, settings.models_dir))


@router.delete("/{model:path}", dependencies=[needs(Scope.models_write)])
def delete_model(caller: Caller, model: ModelName, database: Db, store: Store, settings: Config) -> ModelDeleted:
    """Delete a fine-tuned model. Base models are the installation's and stay."""
    if any(model == base.name for base in registry.list_base_models(settings.models_dir)):
        raise InvalidRequest(f"'{model}' is a base model; only fine-tuned models can be deleted.", param="model")
    with database.transaction() as session:
        adapter = adapters.delete_adapter(session, caller.project_id, model)
        before = audit.snapshot(adapter, "base_model", "job_id", "blob")
        audit.record(session, caller.actor, Action.model_delete, adapter.id, before=before)
    store.delete_tree(adapter.blob)
    return ModelDeleted(id=model)


def _pulled(name: str, models_dir: Path) -> registry.BaseModel:
    try:
        base = registry.resolve(name, models_dir)
    except InvalidRequest as error:
        raise NotFound(error.message, param="model", code="model_not_found") from error
    if not base.is_pulled:
        raise NotFound(
            f"The base model '{base.name}' is not on this server yet; a job that uses it fetches it.",
            param="model",
            code="model_not_found",
        )
    return base
