"""Files that arrive in parts: blobs first, outside of any transaction, then rows; assembled without holding them.

Removes no blobs of uploads that are over: `worker.maintenance.expiry` does, so that a crash leaves nothing behind.
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
from app.core.storage.blobs import CHUNK_BYTES, BlobMissing, BlobStore

UPLOAD_SECONDS: Final = 3600
"""A pending upload expires so long after its creation."""
MAX_PART_BYTES: Final = 64 * 1024**2
MAX_PARTS: Final = 10_000


class UploadClosed(InvalidRequest):
    """The upload is no longer pending."""

    code = "upload_closed"


class UploadMismatch(InvalidRequest):
    """The parts do not make the file that was announced."""

    code = "upload_mismatch"


@dataclass(frozen=True)
class StoredPart:
    """A blob that no row names yet."""

    part_id: str
    blob: str
    bytes: int


@dataclass(frozen=True)
class CompletedUpload:
    """A completed upload and its file, None once that is deleted."""

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
    """A pending upload of `size` bytes. Raises `InvalidRequest` for more than `max_bytes` or a bad purpose."""
    uploads.check_purpose(purpose)
    limit = min(max_bytes, MAX_FILE_BYTES) if purpose == uploads.TRAINING_PURPOSE else max_bytes
    if size > limit:
        raise InvalidRequest(
            f"A file with purpose '{purpose}' has at most {limit:,} bytes, you announced {size:,}; split it.",
            param="bytes",
        )
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
    """The upload, its row locked if asked. Raises `NotFound`, and `UploadClosed` when it takes no parts any more."""
    upload = _get(session, project_id, upload_id, lock=lock)
    if upload.status != UploadStatus.pending:
        raise UploadClosed(f"The upload '{upload_id}' is {upload.status}; start a new one.")
    if session.scalar(select(Upload.expires_at <= func.now()).where(Upload.id == upload_id)):
        raise UploadClosed(f"The upload '{upload_id}' expired {UPLOAD_SECONDS // 60} minutes after its start.")
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
    """Streams a part into the store. Delete the blob again if no row comes to name it.

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
            raise PayloadTooLarge(f"A part has at most {MAX_PART_BYTES:,} bytes; send smaller ones.", param="data")
        yield chunk
    if size == 0:
        raise InvalidRequest("The part is empty; leave it out.", param="data")


def add_part(session: Session, project_id: str, upload_id: str, stored: StoredPart) -> UploadPart:
    """The row of a stored part. Raises as `get_pending`, and `UploadMismatch` when the upload holds too much.

    Twice what was announced fits, since a client whose connection broke sends a part again without knowing its id.
    """
    upload = get_pending(session, project_id, upload_id, lock=True)
    count, size = session.execute(
        select(func.count(), func.coalesce(func.sum(UploadPart.bytes), 0)).where(UploadPart.upload_id == upload_id)
    ).one()
    if count >= MAX_PARTS or size + stored.bytes > 2 * upload.bytes + MAX_PART_BYTES:
        raise UploadMismatch(
            f"The upload '{upload_id}' holds {count:,} parts with {size:,} bytes for a file of {upload.bytes:,}; "
            f"complete it, or start a new one with larger parts (at most {MAX_PARTS:,}).",
            param="data",
        )
    part = UploadPart(id=stored.part_id, upload_id=upload_id, bytes=stored.bytes)
    session.add(part)
    session.flush()
    return part


def find_completed(
    session: Session, project_id: str, upload_id: str, part_ids: Sequence[str]
) -> CompletedUpload | None:
    """What completing the upload with these parts has given before, if it has; locks its row. Raises `NotFound`."""
    upload = _get(session, project_id, upload_id, lock=True)
    if upload.status != UploadStatus.completed or upload.part_ids != list(part_ids):
        return None
    return CompletedUpload(upload, uploads.find_file(session, project_id, upload.file_id or ""))


def check_parts(session: Session, project_id: str, upload_id: str, part_ids: Sequence[str]) -> None:
    """Raises as `get_pending`, and `UploadMismatch` unless these parts hold exactly the announced bytes."""
    upload = get_pending(session, project_id, upload_id)
    found = session.execute(select(UploadPart.id, UploadPart.bytes).where(UploadPart.upload_id == upload_id))
    sizes = {row.id: row.bytes for row in found}
    for place, part_id in enumerate(part_ids):
        if part_id not in sizes:
            raise UploadMismatch(f"The upload has no part '{part_id}'.", param=f"part_ids.{place}")
    if len(set(part_ids)) < len(part_ids):
        raise UploadMismatch("A part is named twice; name each one once.", param="part_ids")
    total = sum(sizes[part_id] for part_id in part_ids)
    if total != upload.bytes:
        raise UploadMismatch(
            f"These parts hold {total:,} bytes, and the upload announced {upload.bytes:,}; send what is missing or "
            "name other parts.",
            param="part_ids",
        )


def assemble(store: BlobStore, upload_id: str, part_ids: Sequence[str], *, md5: str | None) -> ReceivedFile:
    """Writes checked parts one after the other into a new blob. Delete it again if no row comes to name it.

    Raises `UploadMismatch` when the content has another MD5 than `md5` (hexadecimal), and `UploadClosed` when the
    parts go away meanwhile; neither leaves a blob.
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
                f"The parts have the MD5 {digest.hexdigest()}, not {md5}; send them again.", param="md5"
            )

    try:
        stored = store.write(blob, chunks())
    except BlobMissing as error:
        raise UploadClosed(f"The upload '{upload_id}' was cancelled or has expired; start a new one.") from error
    return ReceivedFile(file_id, blob, stored.bytes, stored.sha256)


def complete(
    session: Session, project_id: str, upload_id: str, part_ids: Sequence[str], received: ReceivedFile
) -> CompletedUpload:
    """Makes the file of an assembled blob. Ring validation after the commit.

    When the same request was faster elsewhere, its file is returned and `received` is not used: delete its blob.
    Raises as `get_pending`.
    """
    upload = _get(session, project_id, upload_id, lock=True)
    if earlier := find_completed(session, project_id, upload_id, part_ids):
        return earlier
    if upload.status != UploadStatus.pending:
        raise UploadClosed(f"The upload '{upload_id}' is {upload.status}; start a new one.")
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
    """Ends a pending upload; a cancelled one stays as it is. Raises as `get_pending`."""
    upload = _get(session, project_id, upload_id, lock=True)
    if upload.status != UploadStatus.cancelled:
        upload = get_pending(session, project_id, upload_id)
        upload.status = UploadStatus.cancelled
        session.flush()
    return upload


def expire(session: Session) -> int:
    """Ends pending uploads whose time is over; returns how many."""
    over = (
        update(Upload)
        .where(Upload.status == UploadStatus.pending, Upload.expires_at <= func.now())
        .values(status=UploadStatus.expired)
        .returning(Upload.id)
    )
    return len(session.scalars(over, execution_options={"synchronize_session": False}).all())


def next_unswept(session: Session) -> Upload | None:
    """An upload that is over and still has parts in the store, locked; remove them, then `delete_parts`."""
    unswept = select(Upload).where(Upload.status != UploadStatus.pending, Upload.is_swept.is_(False))
    return session.scalars(unswept.order_by(Upload.id).limit(1).with_for_update(skip_locked=True)).one_or_none()


def delete_parts(session: Session, upload: Upload) -> None:
    """Deletes the rows of parts whose blobs are gone."""
    session.execute(delete(UploadPart).where(UploadPart.upload_id == upload.id))
    upload.is_swept = True
    session.flush()


def parts_prefix(upload_id: str) -> str:
    """Where the parts of an upload lie in the store."""
    return f"uploads/{upload_id}"


def part_blob(upload_id: str, part_id: str) -> str:
    """Key of a part in the store."""
    return f"{parts_prefix(upload_id)}/{part_id}"
