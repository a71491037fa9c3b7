"""`/v1/models`: base models, fine-tuned models and checkpoints."""

from collections.abc import Sequence
from dataclasses import asdict

from fastapi import APIRouter
from starlette.responses import StreamingResponse

from app.api.adapter_archive import TAR, adapter_archive
from app.api.deps import Config, Db, Models, Store
from app.api.ids import ModelName
from app.api.schemas.models import BaseModelFacts, ModelDeleted, ModelDetails, ModelLineage, ModelList, ModelObject
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts import audit
from app.core.accounts.audit import Action
from app.core.accounts.scopes import Scope
from app.core.errors import InvalidRequest, NotFound
from app.core.exports import orders
from app.core.jobs.deletion import delete_model
from app.core.jobs.lineage import lineage_of
from app.core.models import adapters, aliases, registry, stored_adapter
from app.core.models.hub_source import hub_source
from app.core.models.tables import TrainedModel
from app.core.settings import Settings

router = APIRouter(prefix="/models", tags=["Models"])


def _base(model: registry.BaseModel, settings: Settings) -> ModelObject:
    created = int((model.directory / "config.json").stat().st_mtime)
    aliases = [alias for alias in sorted(settings.model_aliases) if _is_alias(alias, model, settings)]
    return ModelObject(id=model.name, created=created, owned_by="system", aliases=aliases)


def _is_alias(alias: str, model: registry.BaseModel, settings: Settings) -> bool:
    try:
        return registry.resolve(alias, settings.models_dir, settings.model_aliases).name == model.name
    except InvalidRequest:  # the alias names a model that does not exist
        return False


def _trained(adapter: TrainedModel, names: Sequence[str]) -> ModelObject:
    return ModelObject(
        id=adapter.id,
        created=int(adapter.created_at.timestamp()),
        owned_by=adapter.project_id,
        base_model=adapter.base_model,
        job_id=adapter.job_id,
        step=adapter.step,
        aliases=list(names),
    )


def _facts(base: registry.BaseModel) -> BaseModelFacts | None:
    if not base.is_pulled:
        return None
    source = hub_source(base.directory)
    hub = {} if source is None else asdict(source)
    return BaseModelFacts(name=base.name, context_length=base.context_length, **hub)


@router.get("", dependencies=[needs(Scope.models_read)])
def list_models(caller: Caller, database: Db, settings: Config) -> ModelList:
    """List the base models on this server, and the fine-tuned models and checkpoints that this project may use."""
    names: dict[str, list[str]] = {}
    with database.reading() as session:
        trained = adapters.list_adapters(session, caller.project_id)
        for alias in aliases.list_aliases(session, caller.project_id):
            names.setdefault(alias.model, []).append(alias.name)
    bases = [model for model in registry.list_base_models(settings.models_dir) if model.is_pulled]
    shown = (_trained(adapter, names.get(adapter.id, [])) for adapter in trained)
    return ModelList(data=[*(_base(model, settings) for model in bases), *shown])


# `{model:path}` matches everything, because names contain '/' and ':'. So this route precedes the one without a suffix.
@router.get(
    "/{model:path}/download",
    response_class=StreamingResponse,
    responses=TAR,
    dependencies=[needs(Scope.models_read)],
)
def download_model(caller: Caller, model: ModelName, database: Db, store: Store) -> StreamingResponse:
    """Download a fine-tuned model or a checkpoint as a tar archive: the PEFT adapter, its config and its README."""
    with database.reading() as session:
        adapter = adapters.get_adapter(session, caller.project_id, model)
    return adapter_archive(store, adapter)


@router.get("/{model:path}", dependencies=[needs(Scope.models_read)])
def retrieve_model(caller: Caller, model: ModelName, database: Db, store: Store, settings: Config) -> ModelDetails:
    """Retrieve a model by its name, its Hugging Face id or an alias, with its size, lineage and held-out results."""
    with database.reading() as session:
        adapter = adapters.find_adapter(session, caller.project_id, model)
        lineage = None if adapter is None else lineage_of(session, caller.project_id, adapter)
    if adapter is None:
        base = _pulled(model, settings)
        return ModelDetails(**_base(base, settings).model_dump(), base=_facts(base))
    stored = stored_adapter.describe(store, adapter)
    return ModelDetails(
        **_trained(adapter, lineage.aliases if lineage else ()).model_dump(),
        base=_facts(registry.BaseModel(adapter.base_model, settings.models_dir / adapter.base_model, None)),
        lineage=None if lineage is None else ModelLineage.of(lineage),
        **({} if stored is None else asdict(stored)),
    )


@router.delete("/{model:path}", name="delete_model", dependencies=[needs(Scope.models_write)])
def remove_model(
    caller: Caller, model: ModelName, database: Db, store: Store, settings: Config, models: Models
) -> ModelDeleted:
    """Delete a fine-tuned model, or a checkpoint of a finished job, with its exports. Base models cannot be deleted."""
    base_names = {base.name for base in registry.list_base_models(settings.models_dir)}
    if registry.resolve_alias(model, settings.model_aliases) in base_names:
        raise InvalidRequest(
            f"'{model}' is a base model. Only fine-tuned models and checkpoints can be deleted.", param="model"
        )
    with database.transaction() as session:
        exported = orders.blobs_of_model(session, model)
        adapter = delete_model(session, caller.project_id, model)
        before = audit.snapshot(adapter, "base_model", "job_id", "blob")
        audit.record(session, caller.actor, Action.model_delete, adapter.id, before=before)
    models.clear()
    for blob in (adapter.blob, *exported):
        store.discard(blob)
    return ModelDeleted(id=model)


def _pulled(name: str, settings: Settings) -> registry.BaseModel:
    try:
        base = registry.resolve(name, settings.models_dir, settings.model_aliases)
    except InvalidRequest as error:
        raise NotFound(error.message, param="model", code="model_not_found") from error
    if not base.is_pulled:
        raise NotFound(
            f"The base model '{base.name}' is not on this server yet. The first job that uses it downloads it.",
            param="model",
            code="model_not_found",
        )
    return base
