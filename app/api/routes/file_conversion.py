"""`POST /v1/files/{id}/convert`: converts an uploaded file of another format to a new file of rows."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, Request

from app.api.deps import Config, Db, Notifier, Slow, Store, Strict
from app.api.ids import FileId
from app.api.schemas.files import ConvertedRows, ConvertFile, FileObject
from app.api.stored_files import add_file
from app.auth.bearer import Caller
from app.auth.scopes import needs
from app.core import broker
from app.core.accounts.scopes import Scope
from app.core.deadline import Deadline
from app.core.errors import InvalidRequest
from app.core.files import uploads
from app.core.files.archives import Unconvertible, jsonl_name
from app.core.files.conversion_process import convert_file
from app.core.files.tables import File
from app.core.scratch import scratch_directory
from app.core.storage.blobs import BlobStore, read

MAX_PREVIEW_BYTES: Final = 500_000

router = APIRouter()


@router.post("/{file_id}/convert", dependencies=[needs(Scope.files_write)])
async def convert(
    request: Request,
    caller: Caller,
    file_id: FileId,
    body: ConvertFile,
    database: Db,
    store: Store,
    settings: Config,
    notifier: Notifier,
    slow: Slow,
    strict: Strict = False,
) -> FileObject:
    """Convert a file (CSV, JSON, another encoding, rows of other tools, also compressed) to a new file of JSONL rows.

    The file itself stays. The new one expires with it, and a worker validates it like an upload.
    """

    def make(deadline: Deadline) -> File:
        file = _file(database, caller.project_id, file_id)
        with _converted(store, file, body, None, deadline) as path:
            received = uploads.receive(store, read(path), max_bytes=settings.max_file_bytes)
        return add_file(
            caller,
            database,
            store,
            received,
            filename=jsonl_name(file.filename),
            purpose=file.purpose,
            expires_seconds=_seconds_left(file),
        )

    made = await slow.conversion.run(request, caller.project_id, make)
    notifier.add(broker.notify_validation)
    return FileObject.of(made, strict=strict)


@router.post("/{file_id}/convert/preview", dependencies=[needs(Scope.files_read)])
async def preview_conversion(
    request: Request, caller: Caller, file_id: FileId, body: ConvertFile, database: Db, store: Store, slow: Slow
) -> ConvertedRows:
    """Convert only the first rows of a file, and return them."""

    def make(deadline: Deadline) -> ConvertedRows:
        file = _file(database, caller.project_id, file_id)
        shown: list[dict[str, Any]] = []
        size = 0
        with _converted(store, file, body, body.limit, deadline) as path, path.open(encoding="utf-8") as lines:
            for line in lines:
                size += len(line)
                if size > MAX_PREVIEW_BYTES and shown:
                    break
                shown.append(json.loads(line))
        return ConvertedRows(file_id=file.id, filename=jsonl_name(file.filename), data=shown)

    return await slow.conversion.run(request, caller.project_id, make)


def _file(database: Db, project_id: str, file_id: str) -> File:
    with database.reading() as session:
        file = uploads.get_file(session, project_id, file_id)
    if file.purpose != uploads.TRAINING_PURPOSE:
        raise InvalidRequest(
            f"Files with the purpose '{file.purpose}' contain no rows. Upload the file with purpose "
            f"'{uploads.TRAINING_PURPOSE}'.",
            code="invalid_file",
        )
    return file


@contextmanager
def _converted(
    store: BlobStore, file: File, body: ConvertFile, limit: int | None, deadline: Deadline
) -> Iterator[Path]:
    """Yield a temporary file with the converted rows. Raises `InvalidRequest`."""
    with scratch_directory("conversion") as directory:
        target = directory / "rows.jsonl"
        try:
            with store.as_file(file.blob, lambda: None) as source:
                convert_file(source, target, body.map, limit=limit, deadline=deadline)
        except Unconvertible as error:
            raise InvalidRequest(f"The file cannot be converted: {error}.", code="invalid_file") from error
        yield target


def _seconds_left(file: File) -> int | None:
    return None if file.expires_at is None else max(1, int((file.expires_at - datetime.now(UTC)).total_seconds()))
