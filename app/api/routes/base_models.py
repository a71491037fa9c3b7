"""`/v1/base_models`: base models with their size and licence, and their downloads.

A worker with the queue `default` downloads: it shares the directory of base models with the API and the trainers.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

from fastapi import APIRouter

from app.api.deps import Config, Db, Notifier
from app.api.ids import ModelName
from app.api.schemas.base_models import BaseModelList, BaseModelObject, PullModel
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts import audit
from app.core.accounts.audit import Action
from app.core.accounts.scopes import Scope
from app.core.broker import notify_pulls
from app.core.errors import InvalidRequest
from app.core.models import pulls, registry, sources
from app.core.models.registry import BaseModel
from app.core.models.tables import UNFINISHED, ModelPull, PullStatus
from app.core.workers import presence

COMMAND: Final = "grouptune models pull MODEL"
FAILURE_SHOWN: Final = timedelta(days=1)
"""How long the list shows the failed download of a model outside the catalogue."""

router = APIRouter(prefix="/base_models", tags=["Models"])


@router.get("", dependencies=[needs(Scope.models_read)])
def list_base_models(caller: Caller, database: Db, settings: Config) -> BaseModelList:
    """List the base models of this server and those of the catalogue, with size, licence, context and download."""
    with database.reading() as session:
        ordered = pulls.list_pulls(session)
        workers = presence.list_workers(session, settings.lease_seconds)
    bases = {base.name: base for base in registry.list_base_models(settings.models_dir)}
    for name, pull in ordered.items():  # repositories of the hub outside the catalogue, not complete yet
        if name not in bases and _is_shown(pull):
            bases[name] = BaseModel(name, settings.models_dir / name, registry.CatalogEntry(name, pull.hub_id, 0))
    return BaseModelList(
        data=[BaseModelObject.of(bases[name], ordered.get(name)) for name in sorted(bases)],
        can_pull=any(worker.downloads for worker in workers),
        pull_command=COMMAND,
    )


def _is_shown(pull: ModelPull) -> bool:
    """Return whether the pull of a model that this server does not have is unfinished, or has failed lately."""
    is_recent = pull.finished_at is not None and pull.finished_at > datetime.now(UTC) - FAILURE_SHOWN
    return pull.status in UNFINISHED or (pull.status == PullStatus.failed and is_recent)


@router.post("", dependencies=[needs(Scope.admin)])
def pull_base_model(
    caller: Caller, body: PullModel, database: Db, settings: Config, notifier: Notifier
) -> BaseModelObject:
    """Download a base model. Repeat `GET /v1/base_models` to follow it. Does nothing for a model that is complete."""
    base = sources.to_pull(body.model, settings.models_dir)
    if base.is_pulled:
        return BaseModelObject.of(base, None)
    with database.transaction() as session:
        if not any(worker.downloads for worker in presence.list_workers(session, settings.lease_seconds)):
            raise InvalidRequest(
                "No worker runs that downloads base models (a worker with the queue `default`). Start one, or run "
                f"`{COMMAND.replace('MODEL', body.model)}` on the server.",
                code="no_worker",
            )
        pull, is_new = pulls.order(session, base)
        if is_new:
            audit.record(session, caller.actor, Action.base_model_pull, base.name, after={"hub_id": pull.hub_id})
        answer = BaseModelObject.of(base, pull)
    if is_new:
        notifier.add(notify_pulls)
    return answer


@router.post("/{model}/cancel", dependencies=[needs(Scope.admin)])
def cancel_pull(caller: Caller, model: ModelName, database: Db, settings: Config) -> BaseModelObject:
    """Cancel the download of a base model. What is downloaded is removed."""
    with database.transaction() as session:
        pull = pulls.cancel(session, model)
        audit.record(session, caller.actor, Action.base_model_cancel, model, after={"status": pull.status})
        entry = registry.find_entry(model) or registry.CatalogEntry(model, pull.hub_id, 0)
        return BaseModelObject.of(BaseModel(model, settings.models_dir / model, entry), pull)
