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
    return file
