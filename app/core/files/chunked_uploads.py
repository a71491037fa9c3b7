"""Chunked uploads: parts are stored one by one and assembled into a file by streaming them.

Every step writes its blob first, outside of any transaction, and then the row that names the blob. A crash in between
leaves a blob without a row, which the cleanup of orphaned blobs finds, but never a row whose blob is missing. It also
keeps transactions short: none stays open while bytes arrive from a client.

This module does not delete the parts of finished uploads. `worker.maintenance.expiry` does, so that a crash right after
an upload ends cannot leave parts behind for good.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.core import ids
from app.core.errors import InvalidRequest, NotFound, PayloadTooLarge
from app.core.files import uploads
from app.core.files.tables import File, Upload, UploadPart, UploadStatus
from app.core.files.uploads import ReceivedFile
from app.core.files.validation import MAX_FILE_BYTES
from app.core.plurals import plural
from app.core.storage.blobs import CHUNK_BYTES, BlobMissing, BlobStore

UPLOAD_SECONDS: Final = 3600
"""Lifetime of a pending upload, from its creation."""
MAX_PART_BYTES: Final = 64 * 1024**2
MAX_PARTS: Final = 10_000
MAX_PENDING: Final = 1_000
"""Pending uploads of a project."""


class UploadClosed(InvalidRequest):
    """The upload is no longer pending."""

    code = "upload_closed"


class UploadMismatch(InvalidRequest):
    """The parts do not add up to the announced file."""

    code = "upload_mismatch"


@dataclass(frozen=True)
class StoredPart:
    """A part in the blob store without a row yet."""

    part_id: str
    blob: str
    bytes: int


@dataclass(frozen=True)
class CompletedUpload:
    """A completed upload and its file; the file is None if it was deleted since."""

    upload: Upload
    file: File | None


def create_upload(
    session: Session,
    project_id: str,
    *,
    size: int,
    filename: str,
    purpose: str,
    file_seconds: int | None,
    max_bytes: int,
) -> Upload:
    """Create a pending upload of `size` bytes. Raises `InvalidRequest` if it is too large, if `purpose` is bad, or if
    the project has too many pending uploads."""
    uploads.check_purpose(purpose)
    limit = min(max_bytes, MAX_FILE_BYTES) if purpose == uploads.TRAINING_PURPOSE else max_bytes
    if size > limit:
        raise InvalidRequest(
            f"A file with purpose '{purpose}' can have at most {limit:,} bytes, but the upload announces {size:,}. "
            "Split the file.",
            param="bytes",
        )
    pending = select(func.count()).where(Upload.project_id == project_id, Upload.status == UploadStatus.pending)
    if (session.scalar(pending) or 0) >= MAX_PENDING:
        raise InvalidRequest(f"The project has {MAX_PENDING:,} pending uploads. Complete or cancel some first.")
    upload = Upload(
        id=ids.upload_id(),
        project_id=project_id,
        filename=uploads.display_name(filename),
        purpose=purpose,
        bytes=size,
        file_seconds=file_seconds,
        expires_at=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, UPLOAD_SECONDS),
    )
    session.add(upload)
    session.flush()
    session.refresh(upload)
    return upload


def get_pending(session: Session, project_id: str, upload_id: str, *, lock: bool = False) -> Upload:
    """Return the upload; `lock` locks its row. Raises `NotFound`, and `UploadClosed` if it no longer accepts parts."""
    upload = _get(session, project_id, upload_id, lock=lock)
    if upload.status != UploadStatus.pending:
        raise UploadClosed(f"The upload '{upload_id}' is {upload.status}. Start a new one.")
    if session.scalar(select(Upload.expires_at <= func.now()).where(Upload.id == upload_id)):
        raise UploadClosed(
            f"The upload '{upload_id}' expired {UPLOAD_SECONDS // 60} minutes after its creation. Start a new one."
        )
    return upload


def _get(session: Session, project_id: str, upload_id: str, *, lock: bool) -> Upload:
    statement = select(Upload).where(Upload.id == upload_id, Upload.project_id == project_id)
    if lock:
        statement = statement.with_for_update()
    upload = session.scalars(statement, execution_options={"populate_existing": True}).one_or_none()
    if upload is None:
        raise NotFound(f"There is no upload '{upload_id}' in this project.")
    return upload


def receive_part(store: BlobStore, upload_id: str, chunks: Iterable[bytes]) -> StoredPart:
    """Stream a part into the store. The caller deletes the blob if it adds no row for it.

    Raises `PayloadTooLarge` past `MAX_PART_BYTES` and `InvalidRequest` for an empty part, leaving no blob.
    """
    part_id = ids.part_id()
    blob = part_blob(upload_id, part_id)
    return StoredPart(part_id, blob, store.write(blob, _bounded(chunks)).bytes)


def _bounded(chunks: Iterable[bytes]) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > MAX_PART_BYTES:
            raise PayloadTooLarge(
                f"A part can have at most {MAX_PART_BYTES:,} bytes. Send smaller parts.", param="data"
            )
        yield chunk
    if size == 0:
        raise InvalidRequest("The part is empty. Leave it out.", param="data")


def add_part(
    session: Session, project_id: str, upload_id: str, stored: StoredPart, *, max_parts: int = MAX_PARTS
) -> UploadPart:
    """Add the row of a stored part. Raises as `get_pending`, and `UploadMismatch` if the upload holds too many bytes.

    The parts may hold twice the announced bytes (plus one part): after a broken connection a client does not know the
    id of the part that it sent, so it sends the part again.
    """
    upload = get_pending(session, project_id, upload_id, lock=True)
    count, size = session.execute(
        select(func.count(), func.coalesce(func.sum(UploadPart.bytes), 0)).where(UploadPart.upload_id == upload_id)
    ).one()
    if count >= max_parts or size + stored.bytes > 2 * upload.bytes + MAX_PART_BYTES:
        raise UploadMismatch(
            f"The upload '{upload_id}' holds {plural(count, 'part')} with {size:,} bytes for a file of "
            f"{upload.bytes:,} bytes. "
            f"Complete it, or start a new one with larger parts (at most {max_parts:,}).",
            param="data",
        )
    part = UploadPart(id=stored.part_id, upload_id=upload_id, bytes=stored.bytes)
    session.add(part)
    session.flush()
    return part


def find_completed(
    session: Session, project_id: str, upload_id: str, part_ids: Sequence[str]
) -> CompletedUpload | None:
    """Lock the upload; return its result if it was completed with exactly these parts. Raises `NotFound`."""
    upload = _get(session, project_id, upload_id, lock=True)
    if upload.status != UploadStatus.completed or upload.part_ids != list(part_ids):
        return None
    return CompletedUpload(upload, uploads.find_file(session, project_id, upload.file_id or ""))


def check_parts(session: Session, project_id: str, upload_id: str, part_ids: Sequence[str]) -> None:
    """Check that these parts hold exactly the announced bytes. Raises as `get_pending`, and `UploadMismatch`."""
    upload = get_pending(session, project_id, upload_id)
    rows = session.execute(select(UploadPart.id, UploadPart.bytes).where(UploadPart.upload_id == upload_id))
    sizes = {row.id: row.bytes for row in rows}
    for index, part_id in enumerate(part_ids):
        if part_id not in sizes:
            raise UploadMismatch(f"The upload has no part '{part_id}'.", param=f"part_ids.{index}")
    if len(set(part_ids)) < len(part_ids):
        raise UploadMismatch("`part_ids` names a part twice. Name each part once.", param="part_ids")
    total = sum(sizes[part_id] for part_id in part_ids)
    if total != upload.bytes:
        raise UploadMismatch(
            f"These parts hold {total:,} bytes, but the upload announced {upload.bytes:,}. Send the missing parts, or "
            "name the right ones.",
            param="part_ids",
        )


def assemble(store: BlobStore, upload_id: str, part_ids: Sequence[str], *, md5: str | None) -> ReceivedFile:
    """Concatenate checked parts into a new blob. The caller deletes the blob if it adds no row for it.

    Holds one chunk in memory at a time. Raises `UploadMismatch` if the MD5 of the content is not `md5` (hexadecimal),
    and `UploadClosed` if the parts are deleted while they are read. Neither leaves a blob.
    """
    file_id = ids.file_id()
    blob = f"files/{file_id}"
    digest = hashlib.md5(usedforsecurity=False)

    def chunks() -> Iterator[bytes]:
        for part_id in part_ids:
            with store.open(part_blob(upload_id, part_id)) as part:
                while chunk := part.read(CHUNK_BYTES):
                    digest.update(chunk)
                    yield chunk
        if md5 is not None and digest.hexdigest() != md5.lower():
            raise UploadMismatch(
                f"The parts have the MD5 {digest.hexdigest()}, not {md5}. Send them again.", param="md5"
            )

    try:
        stored = store.write(blob, chunks())
    except BlobMissing as error:
        raise UploadClosed(f"The upload '{upload_id}' was cancelled or has expired. Start a new one.") from error
    return ReceivedFile(file_id, blob, stored.bytes, stored.sha256)


def complete(
    session: Session, project_id: str, upload_id: str, part_ids: Sequence[str], received: ReceivedFile
) -> CompletedUpload:
    """Create the file of an assembled blob and complete the upload. Notify workers of the validation after the commit.

    If a concurrent request with the same parts was faster, this returns that request's file and does not use
    `received`; the caller then deletes its blob. Raises as `get_pending`.
    """
    upload = _get(session, project_id, upload_id, lock=True)
    if earlier := find_completed(session, project_id, upload_id, part_ids):
        return earlier
    if upload.status != UploadStatus.pending:
        raise UploadClosed(f"The upload '{upload_id}' is {upload.status}. Start a new one.")
    file = uploads.create_file(
        session,
        project_id,
        received,
        filename=upload.filename,
        purpose=upload.purpose,
        expires_seconds=upload.file_seconds,
    )
    upload.status, upload.file_id, upload.part_ids = UploadStatus.completed, file.id, list(part_ids)
    session.flush()
    return CompletedUpload(upload, file)


def cancel(session: Session, project_id: str, upload_id: str) -> Upload:
    """Cancel a pending upload; does nothing if it is cancelled already. Raises as `get_pending`."""
    upload = _get(session, project_id, upload_id, lock=True)
    if upload.status != UploadStatus.cancelled:
        upload = get_pending(session, project_id, upload_id)
        upload.status = UploadStatus.cancelled
        session.flush()
    return upload


def expire(session: Session) -> int:
    """Expire pending uploads past their deadline; returns their number."""
    expired = (
        update(Upload)
        .where(Upload.status == UploadStatus.pending, Upload.expires_at <= func.now())
        .values(status=UploadStatus.expired)
        .returning(Upload.id)
    )
    return len(session.scalars(expired, execution_options={"synchronize_session": False}).all())


def next_unswept(session: Session) -> Upload | None:
    """Return and lock a finished upload whose parts are still stored. Delete their blobs, then call `delete_parts`."""
    unswept = select(Upload).where(Upload.status != UploadStatus.pending, Upload.is_swept.is_(False))
    return session.scalars(unswept.order_by(Upload.id).limit(1).with_for_update(skip_locked=True)).one_or_none()


def delete_parts(session: Session, upload: Upload) -> None:
    """Delete the rows of parts whose blobs are deleted."""
    session.execute(delete(UploadPart).where(UploadPart.upload_id == upload.id))
    upload.is_swept = True
    session.flush()


def parts_prefix(upload_id: str) -> str:
    """Return the key prefix of an upload's parts in the blob store."""
    return f"uploads/{upload_id}"


def part_blob(upload_id: str, part_id: str) -> str:
    """Return the key of a part in the blob store."""
    return f"{parts_prefix(upload_id)}/{part_id}"
