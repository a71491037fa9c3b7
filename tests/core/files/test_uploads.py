"""Uploads with a real store and a real Postgres."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from app.core.accounts.audit import Actor
from app.core.db import Database
from app.core.errors import InvalidRequest, NotFound, PayloadTooLarge
from app.core.files import uploads
from app.core.files.tables import File, FileStatus
from app.core.jobs import lifecycle
from app.core.jobs.deletion import delete_file
from app.core.jobs.submission import check_file
from app.core.storage.local import LocalBlobStore
from tests.setup_jobs import make_file, make_job, make_project, supervised


@pytest.fixture
def store(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "storage")


def blobs(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "storage").rglob("*") if path.is_file()]


def test_upload_is_streamed_and_hashed(database: Database, store: LocalBlobStore) -> None:
    received = uploads.receive(store, iter([b"hello ", b"world"]), max_bytes=11)
    assert received.bytes == 11
    assert received.sha256 == "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"
    with database.transaction() as session:
        project = make_project(session)
        uploads.create_file(session, project, received, filename="a\0b.jsonl", purpose="fine-tune")
    with database.transaction() as session:
        file = uploads.get_file(session, project, received.file_id)
    assert (file.filename, file.status, file.bytes) == ("ab.jsonl", "uploaded", 11)
    with store.open(file.blob) as stream:
        assert stream.read() == b"hello world"


def test_size_limit_stops_the_stream(store: LocalBlobStore, tmp_path: Path) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 10

    with pytest.raises(PayloadTooLarge, match="35 bytes"):
        uploads.receive(store, endless(), max_bytes=35)
    assert taken == 4
    assert blobs(tmp_path) == []


def test_empty_file_is_refused(store: LocalBlobStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        uploads.receive(store, iter([b""]), max_bytes=10)
    assert blobs(tmp_path) == []


@pytest.mark.parametrize("purpose", [None, "", "finetune"])
def test_unknown_purpose_is_refused(purpose: str | None) -> None:
    with pytest.raises(InvalidRequest, match="'fine-tune'") as caught:
        uploads.check_purpose(purpose)
    assert caught.value.param == "purpose"


def test_pages_cover_all_files_in_both_orders(database: Database) -> None:
    with database.transaction() as session:  # one transaction: all have the same created_at
        project = make_project(session)
        expected = {make_file(session, project).id for _ in range(7)}
        make_file(session, make_project(session, "other"))
    for order in ("asc", "desc"):
        seen: list[str] = []
        more = True
        while more:
            with database.transaction() as session:
                files, more = uploads.list_files(
                    session, project, after=seen[-1] if seen else None, limit=3, order=order
                )
            seen += [file.id for file in files]
        assert len(seen) == 7
        assert set(seen) == expected
        assert seen == sorted(seen, reverse=order == "desc")


def test_other_projects_file_is_not_found(database: Database) -> None:
    with database.transaction() as session:
        file = make_file(session, make_project(session, "other"))
        own_project = make_project(session)
        with pytest.raises(NotFound):
            uploads.get_file(session, own_project, file.id)
        with pytest.raises(InvalidRequest) as caught:
            uploads.list_files(session, own_project, after=file.id, limit=1)
        assert caught.value.param == "after"
        with pytest.raises(NotFound):
            delete_file(session, own_project, file.id)


def test_file_of_a_live_job_is_not_deleted(database: Database) -> None:
    with database.transaction() as session:
        project = make_project(session)
        file = make_file(session, project)
        job = make_job(session, project, file=file)
    with database.transaction() as session, pytest.raises(InvalidRequest, match=job.id):
        delete_file(session, project, file.id)
    with database.transaction() as session:
        lifecycle.cancel(session, Actor(project), job.id)
        assert delete_file(session, project, file.id).blob == file.blob
    with database.transaction() as session:
        assert session.get(File, file.id) is None


def test_file_of_a_job_in_creation_is_not_deleted(database: Database) -> None:
    """The deletion waits for the transaction that has checked the file, and then finds its job."""
    with database.transaction() as session:
        project = make_project(session)
        file = make_file(session, project, status=FileStatus.uploaded).id

    def delete() -> None:
        with database.transaction() as session:
            delete_file(session, project, file)

    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    with ThreadPoolExecutor(1) as threads:
        with database.transaction() as session:
            check_file(session, project, supervised(), file, "training_file")
            deletion = threads.submit(delete)
            while not deletion.done() and not session.scalar(waiting):
                pass
            make_job(session, project, file=session.get_one(File, file))
        with pytest.raises(InvalidRequest, match="is used by the job"):
            deletion.result()
