"""`/v1/models/{model}/exports` and `/v1/exports`: finished artefacts made from fine-tuned models."""

import re
from datetime import timedelta

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api.deps import Config, Db, Notifier, Secrets, Store
from app.api.ids import ExportId, ModelName
from app.api.pagination import After, Limit, Page, page
from app.api.ranges import blob_response
from app.api.schemas.exports import CreateExport, ExportDeleted, ExportObject
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core.accounts.scopes import Scope
from app.core.broker import notify_exports
from app.core.errors import InvalidRequest
from app.core.exports import orders
from app.core.jobs import quotas
from app.core.secrets import KeyRing
from app.core.spec.export import ExportFormat, is_hub_token

router = APIRouter(tags=["Exports"])


@router.post("/models/{model:path}/exports", dependencies=[needs(Scope.models_write)])
def create_export(
    caller: Caller,
    model: ModelName,
    body: CreateExport,
    database: Db,
    settings: Config,
    ring: Secrets,
    notify: Notifier,
) -> ExportObject:
    """Order an export of a fine-tuned model. A worker makes it and compares it with the unmerged model.

    Poll the export until it has succeeded, then download its content.
    """
    options = orders.options_of(
        body.format, body.quantization, repository=body.repository, private=body.private, merged=body.merged
    )
    secret = _secret(body, ring, has_own=settings.hub_token is not None)
    with database.transaction() as session:
        export, is_new = orders.order(session, caller.actor, model, body.format, options, secret)
        if is_new:
            quotas.check_stored_bytes(session, caller.project_id, 1, caller.limits.stored_bytes, "export")
    if is_new:
        notify.add(notify_exports)
    return ExportObject.of(export)


def _secret(body: CreateExport, ring: KeyRing, *, has_own: bool) -> bytes | None:
    """Return the encrypted token of the request. Raises `InvalidRequest` for a push without any token."""
    if body.format is not ExportFormat.push:
        if body.hub_token is not None:
            raise InvalidRequest("Only the format 'push' has `hub_token`. Leave it out.", param="hub_token")
        return None
    if body.hub_token is not None:
        token = body.hub_token.get_secret_value()
        if not is_hub_token(token):
            raise InvalidRequest(
                "'hub_token' has a space, a line break or another character that no token has. Copy the token again.",
                param="hub_token",
            )
        return ring.encrypt_for_client(token)
    if not has_own:
        raise InvalidRequest(
            "Send a hub token as `hub_token`. This server has no token of its own (GROUPTUNE_HUB_TOKEN).",
            param="hub_token",
            code="hub_token_missing",
        )
    return None


@router.get("/models/{model:path}/exports", dependencies=[needs(Scope.models_read)])
def list_exports(
    caller: Caller, model: ModelName, database: Db, after: After = None, limit: Limit = 20
) -> Page[ExportObject]:
    """List this project's exports of a model, newest first."""
    with database.reading() as session:
        exports, more = orders.list_exports(session, caller.project_id, model, after=after, limit=limit)
    return page([ExportObject.of(export) for export in exports], more)


@router.get("/exports/{export_id}", dependencies=[needs(Scope.models_read)])
def retrieve_export(caller: Caller, export_id: ExportId, database: Db) -> ExportObject:
    """Retrieve an export with its progress, and its manifest once it has succeeded."""
    with database.reading() as session:
        return ExportObject.of(orders.find_export(session, caller.project_id, export_id))


@router.get(
    "/exports/{export_id}/content",
    response_class=Response,
    responses={
        200: {"content": {"application/x-tar": {}}, "description": "A tar archive with `manifest.json` and the files."},
        206: {"content": {"application/x-tar": {}}, "description": "The requested range of the archive."},
    },
    dependencies=[needs(Scope.models_read)],
)
def export_content(request: Request, caller: Caller, export_id: ExportId, database: Db, store: Store) -> Response:
    """Download the archive of a succeeded export. `Range` resumes a download."""
    with database.reading() as session:
        export = orders.find_export(session, caller.project_id, export_id)
    blob, size, sha256 = orders.archive_of(export)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{export.model}-{export.format}").strip("-")
    return blob_response(request, store, blob, size, sha256, f"{name}.tar")


@router.post("/exports/{export_id}/cancel", dependencies=[needs(Scope.models_write)])
def cancel_export(caller: Caller, export_id: ExportId, database: Db, settings: Config) -> ExportObject:
    """Cancel an unfinished export."""
    with database.transaction() as session:
        keep = timedelta(days=settings.export_days)
        return ExportObject.of(orders.cancel(session, caller.actor, export_id, keep))


@router.delete("/exports/{export_id}", dependencies=[needs(Scope.models_write)])
def delete_export(caller: Caller, export_id: ExportId, database: Db, store: Store) -> ExportDeleted:
    """Delete an export and its archive; an unfinished one is cancelled."""
    with database.transaction() as session:
        export = orders.delete(session, caller.actor, export_id)
    if export.blob is not None:
        store.discard(export.blob)
    return ExportDeleted(id=export_id)
