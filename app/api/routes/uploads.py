"""`/v1/uploads`: files that are uploaded in parts."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from app.api.deps import Config, Db, Notifier, Store, Strict
from app.api.ids import UploadId
from app.api.multipart import PART_BODY, FormPart, part_form
from app.api.schemas.files import CompleteUpload, CreateUpload, UploadObject, UploadPartObject
from app.api.stored_files import AUDITED, share_content
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core import broker
from app.core.accounts import audit
from app.core.accounts.audit import Action
from app.core.accounts.scopes import Scope
from app.core.files import chunked_uploads
from app.core.jobs import quotas

router = APIRouter(prefix="/uploads", tags=["Uploads"])


@router.post("", dependencies=[needs(Scope.files_write)])
def create_upload(
    caller: Caller, body: CreateUpload, database: Db, settings: Config, strict: Strict = False
) -> UploadObject:
    """Start an upload in parts. It must be completed within an hour."""
    with database.transaction() as session:
        quotas.check_stored_bytes(session, caller.project_id, body.bytes, caller.limits.stored_bytes)
        upload = chunked_uploads.create_upload(
            session,
            caller.project_id,
            size=body.bytes,
            filename=body.filename,
            purpose=body.purpose,
            file_seconds=None if body.expires_after is None else body.expires_after.seconds,
            max_bytes=settings.max_upload_bytes,
        )
    return UploadObject.of(upload, None, strict=strict)


def _pending(caller: Caller, upload_id: UploadId, database: Db) -> str:
    """Check the upload and the quota before the body of the part is received."""
    with database.transaction() as session:
        quotas.check_stored_bytes(session, caller.project_id, 0, caller.limits.stored_bytes, "part")
        return chunked_uploads.get_pending(session, caller.project_id, upload_id).id


async def _part(request: Request, _upload_id: Annotated[str, Depends(_pending)]) -> AsyncIterator[FormPart]:
    async with part_form(request) as sent:
        yield sent


@router.post("/{upload_id}/parts", openapi_extra=PART_BODY, dependencies=[needs(Scope.files_write)])
def add_part(
    caller: Caller, upload_id: UploadId, sent: Annotated[FormPart, Depends(_part)], database: Db, store: Store
) -> UploadPartObject:
    """Add a part of at most 64 MiB. Parts may be sent concurrently and in any order."""
    stored = chunked_uploads.receive_part(store, upload_id, sent.chunks())
    try:
        with database.transaction() as session:
            part = chunked_uploads.add_part(session, caller.project_id, upload_id, stored)
            # More parts than were announced: the row of this one counts already.
            quotas.check_stored_bytes(session, caller.project_id, 0, caller.limits.stored_bytes, "part")
    except BaseException:
        store.delete(stored.blob)
        raise
    return UploadPartObject.of(part)


@router.post("/{upload_id}/complete", dependencies=[needs(Scope.files_write)])
def complete_upload(
    caller: Caller,
    upload_id: UploadId,
    body: CompleteUpload,
    database: Db,
    store: Store,
    settings: Config,
    notifier: Notifier,
    strict: Strict = False,
) -> UploadObject:
    """Assemble the file from its parts, in the order of `part_ids`. A repeated request gets the same response."""
    project_id, part_ids = caller.project_id, body.part_ids
    with database.transaction() as session:
        done = chunked_uploads.find_completed(session, project_id, upload_id, part_ids)
        if done is None:
            chunked_uploads.check_parts(session, project_id, upload_id, part_ids)
    if done is not None:
        return UploadObject.of(done.upload, done.file, strict=strict)
    received = chunked_uploads.assemble(store, upload_id, part_ids, md5=body.md5)
    try:
        with database.transaction() as session:
            done = chunked_uploads.complete(session, project_id, upload_id, part_ids, received)
            if done.file is not None and done.file.id == received.file_id:
                after_change = audit.snapshot(done.file, *AUDITED)
                audit.record(session, caller.actor, Action.file_create, done.file.id, after=after_change)
    except BaseException:
        store.delete(received.blob)
        raise
    if done.upload.file_id != received.file_id:
        store.delete(received.blob)
    else:
        if done.file is not None:
            share_content(database, store, done.file)
        notifier.add(broker.notify_validation)
    return UploadObject.of(done.upload, done.file, strict=strict)


@router.post("/{upload_id}/cancel", dependencies=[needs(Scope.files_write)])
def cancel_upload(caller: Caller, upload_id: UploadId, database: Db, strict: Strict = False) -> UploadObject:
    """Cancel a pending upload and delete its parts."""
    with database.transaction() as session:
        upload = chunked_uploads.cancel(session, caller.project_id, upload_id)
    return UploadObject.of(upload, None, strict=strict)
