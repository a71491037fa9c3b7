"""Chunked uploads with a real store and a real Postgres: races between requests, and limits."""

from pathlib import Path

import pytest

from app.core.db import Database
from app.core.errors import PayloadTooLarge
from app.core.files import chunked_uploads
from app.core.files.chunked_uploads import UploadClosed, UploadMismatch
from app.core.files.tables import UploadPart, UploadStatus
from app.core.storage.local import LocalBlobStore
from tests.setup_jobs import make_project


@pytest.fixture
def store(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "storage")


@pytest.fixture
def project(database: Database) -> str:
    with database.transaction() as session:
        return make_project(session)


def start(database: Database, project: str, size: int = 4) -> str:
    with database.transaction() as session:
        return chunked_uploads.create_upload(
            session, project, size=size, filename="a\0b", purpose="user_data", file_seconds=None, max_bytes=1000
        ).id


def add(database: Database, store: LocalBlobStore, project: str, upload_id: str, content: bytes, **options: int) -> str:
    stored = chunked_uploads.receive_part(store, upload_id, [content])
    with database.transaction() as session:
        return chunked_uploads.add_part(session, project, upload_id, stored, **options).id


def test_deleted_parts_close_the_upload(database: Database, store: LocalBlobStore, project: str) -> None:
    upload_id = start(database, project)
    part = add(database, store, project, upload_id, b"1234")
    with database.transaction() as session:
        chunked_uploads.check_parts(session, project, upload_id, [part])
        chunked_uploads.cancel(session, project, upload_id)
    store.delete_tree(chunked_uploads.parts_prefix(upload_id))
    with pytest.raises(UploadClosed, match="cancelled"):
        chunked_uploads.assemble(store, upload_id, [part], md5=None)
    assert store.list("files") == []


def test_upload_cancelled_during_assembly(database: Database, store: LocalBlobStore, project: str) -> None:
    upload_id = start(database, project)
    part = add(database, store, project, upload_id, b"1234")
    received = chunked_uploads.assemble(store, upload_id, [part], md5=None)
    with database.transaction() as session:
        chunked_uploads.cancel(session, project, upload_id)
    with database.transaction() as session, pytest.raises(UploadClosed, match="cancelled"):
        chunked_uploads.complete(session, project, upload_id, [part], received)


def test_equal_completions_return_one_file(database: Database, store: LocalBlobStore, project: str) -> None:
    upload_id = start(database, project)
    part = add(database, store, project, upload_id, b"1234")
    fast, slow = (chunked_uploads.assemble(store, upload_id, [part], md5=None) for _ in range(2))
    done = []
    for received in (fast, slow):
        with database.transaction() as session:
            done.append(chunked_uploads.complete(session, project, upload_id, [part], received))
    assert [completed.upload.file_id for completed in done] == [fast.file_id] * 2


def test_part_after_cancel_gets_no_row(database: Database, store: LocalBlobStore, project: str) -> None:
    upload_id = start(database, project)
    stored = chunked_uploads.receive_part(store, upload_id, [b"12"])
    with database.transaction() as session:
        assert chunked_uploads.cancel(session, project, upload_id).status == UploadStatus.cancelled
    with database.transaction() as session, pytest.raises(UploadClosed):
        chunked_uploads.add_part(session, project, upload_id, stored)
    with database.transaction() as session:
        assert session.get(UploadPart, stored.part_id) is None


def test_number_of_parts_is_limited(database: Database, store: LocalBlobStore, project: str) -> None:
    assert chunked_uploads.MAX_PARTS == 10_000
    upload_id = start(database, project)
    for _ in range(3):
        add(database, store, project, upload_id, b"1", max_parts=3)
    with pytest.raises(UploadMismatch, match="3 parts with 3 bytes for a file of 4"):
        add(database, store, project, upload_id, b"1", max_parts=3)


def test_overlong_part_leaves_no_blob(store: LocalBlobStore) -> None:
    piece = bytes(chunked_uploads.MAX_PART_BYTES // 2)
    with pytest.raises(PayloadTooLarge):
        chunked_uploads.receive_part(store, "upload_x", [piece, piece, b"1"])
    assert store.list("uploads") == []
