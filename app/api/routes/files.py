"""`/v1/files`: upload, list, retrieve, download and delete files."""

import base64
from collections.abc import Iterator
from typing import Annotated, BinaryIO, Final, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query
from starlette.responses import StreamingResponse

from app.api.blob_response import BlobResponse
from app.api.deps import Config, Db, Notifier, Store, Strict
from app.api.ids import MAX_ID, FileId
from app.api.multipart import FILE_BODY, UploadedFile
from app.api.pagination import After, Page, page
from app.api.routes import file_conversion, file_preview, file_rows, grader_suggestion, method_suggestion
from app.api.schemas.files import FileDeleted, FileObject, FileReportObject
from app.api.stored_files import AUDITED, add_file
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core import broker
from app.core.accounts import audit
from app.core.accounts.audit import Action
from app.core.accounts.scopes import Scope
from app.core.files import uploads
from app.core.files.tables import FileStatus
from app.core.jobs.deletion import delete_file

MAX_FILES: Final = 10_000
CHUNK_BYTES: Final = 3 << 18
"""Divisible by three, so that every chunk but the last becomes base64 without padding."""

router = APIRouter(prefix="/files", tags=["Files"])
router.include_router(file_preview.router)
router.include_router(file_rows.router)
router.include_router(file_conversion.router)
router.include_router(grader_suggestion.router)
router.include_router(method_suggestion.router)


@router.post("", openapi_extra=FILE_BODY, dependencies=[needs(Scope.files_write)])
def upload_file(
    caller: Caller,
    sent: UploadedFile,
    database: Db,
    store: Store,
    settings: Config,
    notifier: Notifier,
    strict: Strict = False,
) -> FileObject:
    """Upload a data file. A worker validates it afterwards: poll until `status` is `processed` or `error`."""
    purpose = uploads.check_purpose(sent.purpose)
    expiry = None if sent.expires_after is None else sent.expires_after.seconds
    received = uploads.receive(store, sent.chunks(), max_bytes=settings.max_file_bytes)
    file = add_file(caller, database, store, received, filename=sent.filename, purpose=purpose, expires_seconds=expiry)
    notifier.add(broker.notify_validation)
    return FileObject.of(file, strict=strict)


@router.get("", dependencies=[needs(Scope.files_read)])
def list_files(
    caller: Caller,
    database: Db,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=MAX_FILES, description="Maximum number of items per page.")] = MAX_FILES,
    order: Annotated[Literal["asc", "desc"], Query(description="By time.")] = "desc",
    purpose: Annotated[str | None, Query(max_length=MAX_ID, description="Only files with this purpose.")] = None,
    sha256: Annotated[
        str | None,
        Query(
            max_length=64,
            pattern="^[0-9a-f]{64}$",
            description="Only files of this content. Ask before you upload it again.",
        ),
    ] = None,
    strict: Strict = False,
) -> Page[FileObject]:
    """List this project's files, newest first unless `order` is `asc`."""
    with database.reading() as session:
        files, more = uploads.list_files(
            session, caller.project_id, after=after, limit=limit, order=order, purpose=purpose, sha256=sha256
        )
    return page([FileObject.of(file, strict=strict) for file in files], more)


@router.get("/{file_id}", dependencies=[needs(Scope.files_read)])
def retrieve_file(caller: Caller, file_id: FileId, database: Db, strict: Strict = False) -> FileObject:
    """Retrieve a file."""
    with database.reading() as session:
        return FileObject.of(uploads.get_file(session, caller.project_id, file_id), strict=strict)


@router.delete("/{file_id}", name="delete_file", dependencies=[needs(Scope.files_write)])
def remove_file(caller: Caller, file_id: FileId, database: Db, store: Store) -> FileDeleted:
    """Delete a file that no unfinished job uses."""
    with database.transaction() as session:
        file = delete_file(session, caller.project_id, file_id)
        audit.record(session, caller.actor, Action.file_delete, file.id, before=audit.snapshot(file, *AUDITED))
    for blob in file.blobs:
        store.discard(blob)
    return FileDeleted(id=file_id)


@router.get(
    "/{file_id}/content",
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {"application/octet-stream": {}, "text/plain": {"schema": {"type": "string"}}},
            "description": "The bytes as they were uploaded, or their base64 encoding.",
        }
    },
    dependencies=[needs(Scope.files_read)],
)
def file_content(
    caller: Caller,
    file_id: FileId,
    database: Db,
    store: Store,
    encoding: Annotated[
        Literal["base64"] | None, Query(description="OpenAI's encoding of result files; the plain bytes if absent.")
    ] = None,
) -> StreamingResponse:
    """Download a file."""
    with database.reading() as session:
        file = uploads.get_file(session, caller.project_id, file_id)
    blob = store.open(file.blob)
    chunks, size, kind = _chunks(blob), file.bytes, "application/octet-stream"
    if encoding == "base64":
        chunks, size, kind = map(base64.b64encode, chunks), 4 * -(-size // 3), "text/plain"
    headers = {
        "content-length": str(size),
        "content-disposition": f"attachment; filename*=utf-8''{quote(file.filename, safe='')}",
    }
    return BlobResponse(blob, chunks, 200, headers, kind)


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


@router.get("/{file_id}/report", dependencies=[needs(Scope.files_read)])
def file_report(caller: Caller, file_id: FileId, database: Db) -> FileReportObject:
    """Return the validation report with its errors and warnings by line."""
    with database.reading() as session:
        file = uploads.get_file(session, caller.project_id, file_id)
    # `places` are offsets for the preview and lint, not for clients.
    report = None if file.report is None else {name: value for name, value in file.report.items() if name != "places"}
    return FileReportObject(file_id=file.id, status=FileStatus(file.status), summary=file.status_details, report=report)
