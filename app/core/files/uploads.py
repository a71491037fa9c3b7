"""Uploaded files: stores the blob first, outside of any transaction, then the row. Validates no content."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from app.core import ids
from app.core.errors import InvalidRequest, NotFound, PayloadTooLarge
from app.core.files.tables import File, FileStatus, not_expired
from app.core.files.validation_report import FileReport
from app.core.storage.blobs import BlobStore

TRAINING_PURPOSE: Final = "fine-tune"
"""Purpose of files that jobs read; their rows are validated."""
PURPOSES: Final = (TRAINING_PURPOSE, "assistants", "batch", "vision", "user_data", "evals")
"""OpenAI's purposes; only `fine-tune` files can train."""
MAX_FILENAME: Final = 255
MIN_EXPIRY_SECONDS: Final = 3600
MAX_EXPIRY_SECONDS: Final = 2_592_000


@dataclass(frozen=True)
class ReceivedFile:
    """A file in the blob store without a row yet."""

    file_id: str
    blob: str
    bytes: int
    sha256: str


def check_purpose(purpose: str | None) -> str:
    """Return the purpose. Raises `InvalidRequest` unless it is one of `PURPOSES`."""
    if purpose in PURPOSES:
        return purpose
    sent = "is missing" if purpose is None else f"'{purpose}' is unknown"
    raise InvalidRequest(
        f"The field `purpose` {sent}. For training and validation data send purpose 'fine-tune' "
        f"(all purposes: {', '.join(PURPOSES)}).",
        param="purpose",
    )


def receive(store: BlobStore, chunks: Iterable[bytes], *, max_bytes: int) -> ReceivedFile:
    """Stream an upload into the store. The caller deletes the blob if it adds no row for it.

    Raises `PayloadTooLarge` past `max_bytes` and `InvalidRequest` for an empty file, leaving no blob.
    """
    file_id = ids.file_id()
    blob = f"files/{file_id}"
    stored = store.write(blob, _bounded(chunks, max_bytes))
    return ReceivedFile(file_id, blob, stored.bytes, stored.sha256)


def _bounded(chunks: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise PayloadTooLarge(
                f"The file is larger than the limit of {max_bytes:,} bytes. Split it, or raise "
                "GROUPTUNE_MAX_FILE_BYTES on the server.",
                param="file",
            )
        yield chunk
    if size == 0:
        raise InvalidRequest("The file is empty. Write one JSON object per line.", param="file", code="invalid_file")


def display_name(filename: str) -> str:
    """Return a client's file name as it is stored: without what Postgres cannot store, cut to length, never empty."""
    return filename.replace("\0", "")[:MAX_FILENAME] or "upload"


def create_file(
    session: Session,
    project_id: str,
    received: ReceivedFile,
    *,
    filename: str,
    purpose: str,
    expires_seconds: int | None = None,
) -> File:
    """Add the row of a received blob, to be validated. Notify workers of the validation after the commit.

    The file expires `expires_seconds` from now, or never.
    """
    file = File(
        id=received.file_id,
        project_id=project_id,
        filename=display_name(filename),
        purpose=check_purpose(purpose),
        bytes=received.bytes,
        sha256=received.sha256,
        blob=received.blob,
        expires_at=None
        if expires_seconds is None
        else func.now() + func.make_interval(0, 0, 0, 0, 0, 0, expires_seconds),
    )
    session.add(file)
    session.flush()
    session.refresh(file)
    return file


def find_file(
    session: Session, project_id: str, file_id: str, *, lock: bool = False, keep: bool = False
) -> File | None:
    """Return the file, or None if it belongs to another project or has expired.

    `lock` locks its row; `keep` only prevents its deletion, until the transaction ends.
    """
    statement = select(File).where(File.id == file_id, File.project_id == project_id, not_expired())
    if lock or keep:
        statement = statement.with_for_update(read=keep)
    return session.scalars(statement, execution_options={"populate_existing": True}).one_or_none()


def blob_of_twin(session: Session, file: File) -> str | None:
    """Return the blob of the project's oldest other file of this content, or None."""
    twins = select(File.blob).where(
        File.project_id == file.project_id, File.sha256 == file.sha256, File.bytes == file.bytes, File.id != file.id
    )
    return session.scalar(twins.order_by(File.created_at, File.id).limit(1))


def newest_blobs(session: Session, limit: int) -> list[str]:
    """Return the blobs of the files of all projects that were stored last."""
    return list(session.scalars(select(File.blob).order_by(File.created_at.desc()).limit(limit)))


def get_file(session: Session, project_id: str, file_id: str, *, lock: bool = False) -> File:
    """Return the file as `find_file` does. Raises `NotFound` instead of returning None."""
    file = find_file(session, project_id, file_id, lock=lock)
    if file is None:
        raise NotFound(f"There is no file '{file_id}' in this project.")
    return file


def statuses(session: Session, file_ids: Collection[str]) -> dict[str, str]:
    """Return the statuses of the files that exist, by id."""
    rows = session.execute(select(File.id, File.status).where(File.id.in_(file_ids), not_expired()))
    return {row.id: row.status for row in rows}


def list_files(
    session: Session,
    project_id: str,
    *,
    after: str | None,
    limit: int,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
    sha256: str | None = None,
) -> tuple[list[File], bool]:
    """Return a page of files by creation time, and whether more follow. `sha256` selects files of this content.

    Raises `InvalidRequest` with `param` "after" if `after` is not the id of a file in the list.
    """
    statement = select(File).where(File.project_id == project_id, not_expired())
    if purpose is not None:
        statement = statement.where(File.purpose == purpose)
    if sha256 is not None:
        statement = statement.where(File.sha256 == sha256)
    place = tuple_(File.created_at, File.id)
    if after is not None:
        seen = session.execute(
            select(File.created_at, File.id).where(File.id == after, File.project_id == project_id)
        ).one_or_none()
        if seen is None:
            raise InvalidRequest(f"'after' is not the id of an item in this list: {after!r}.", param="after")
        mark = tuple_(seen.created_at, seen.id)
        statement = statement.where(place > mark if order == "asc" else place < mark)
    direction = (File.created_at.asc(), File.id.asc()) if order == "asc" else (File.created_at.desc(), File.id.desc())
    rows = session.scalars(statement.order_by(*direction).limit(limit + 1)).all()
    return list(rows[:limit]), len(rows) > limit


def valid_report(file: File) -> FileReport:
    """Return the report of a file whose rows can be read. Raises `InvalidRequest`."""
    match file.status:
        case FileStatus.uploaded:
            raise InvalidRequest("The file is not validated yet. Wait until it is `processed`.", code="file_not_ready")
        case FileStatus.error:
            details = file.status_details or "see its report"
            raise InvalidRequest(f"The file has errors: {details}", code="invalid_file")
    if file.report is None:
        raise InvalidRequest(
            f"Files with the purpose '{file.purpose}' contain no rows. Use a file with purpose '{TRAINING_PURPOSE}'.",
            code="invalid_file",
        )
    return FileReport.model_validate(file.report)
