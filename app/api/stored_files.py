"""Adds received bytes as a file of the project, for uploads and conversions."""

from typing import Final

from app.auth.bearer import Caller
from app.core.accounts import audit
from app.core.accounts.audit import Action
from app.core.db import Database
from app.core.files import uploads
from app.core.files.tables import File
from app.core.files.uploads import ReceivedFile
from app.core.jobs import quotas
from app.core.storage.blobs import BlobStore

AUDITED: Final = ("filename", "purpose", "bytes", "sha256")


def add_file(
    caller: Caller,
    database: Database,
    store: BlobStore,
    received: ReceivedFile,
    *,
    filename: str,
    purpose: str,
    expires_seconds: int | None,
) -> File:
    """Create the file within the project's quota. If that fails, the received bytes are deleted."""
    try:
        with database.transaction() as session:
            quotas.check_stored_bytes(session, caller.project_id, received.bytes, caller.limits.stored_bytes)
            file = uploads.create_file(
                session,
                caller.project_id,
                received,
                filename=filename,
                purpose=purpose,
                expires_seconds=expires_seconds,
            )
            audit.record(session, caller.actor, Action.file_create, file.id, after=audit.snapshot(file, *AUDITED))
    except BaseException:  # also if the client disconnects
        store.delete(received.blob)
        raise
    share_content(database, store, file)
    return file


def share_content(database: Database, store: BlobStore, file: File) -> None:
    """Store the content of a new file only once if the project has another file of this content.

    The files stay separate objects, as OpenAI's clients expect. Call it after the commit: a shared blob is as old as
    its first key, so without a row it would count as orphaned.
    """
    with database.reading() as session:
        twin = uploads.blob_of_twin(session, file)
    if twin is not None:
        store.share(file.blob, twin)
