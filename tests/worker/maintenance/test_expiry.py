"""Expired files and uploads are removed, row and blob, unless a live job needs them."""

from sqlalchemy import func, update

from app.core.db import Database
from app.core.files import chunked_uploads
from app.core.files.tables import File, Upload, UploadPart
from app.core.files.uploads import find_file
from app.core.jobs import lifecycle
from app.core.jobs.tables import Job
from tests.setup_jobs import make_file
from tests.waiting import eventually
from tests.worker.conftest import Bench, Plant, last_sweeps
from worker.maintenance.expiry import remove_expired


def let_expire(database: Database, file_id: str) -> None:
    with database.transaction() as session:
        session.execute(update(File).where(File.id == file_id).values(expires_at=func.now()))


def test_expired_file_and_blob_are_removed(bench: Bench) -> None:
    with bench.database.transaction() as session:
        expired, current = (make_file(session, bench.project) for _ in range(2))
        session.execute(
            update(File).where(File.id == current.id).values(expires_at=func.now() + func.make_interval(0, 0, 0, 1))
        )
    for file in (expired, current):
        bench.store.write(file.blob, [b"{}"])
    let_expire(bench.database, expired.id)
    remove_expired(bench.database, bench.store)
    assert not bench.store.exists(expired.blob)
    assert bench.store.exists(current.blob)
    with bench.database.transaction() as session:
        assert session.get(File, expired.id) is None
        assert session.get(File, current.id) is not None


def test_live_job_keeps_its_expired_file(bench: Bench) -> None:
    training = bench.job().training_file
    let_expire(bench.database, training)
    remove_expired(bench.database, bench.store)
    with bench.database.transaction() as session:
        assert find_file(session, bench.project, training) is None
        assert session.get(File, training) is not None
    assert bench.run("train:2").status == "succeeded"
    remove_expired(bench.database, bench.store)
    with bench.database.transaction() as session:
        assert session.get(File, training) is None


def test_job_with_an_expired_file_still_starts(bench: Bench) -> None:
    with bench.database.transaction() as session:
        session.execute(update(Job).values(status="validating_files"))
    let_expire(bench.database, bench.job().training_file)
    remove_expired(bench.database, bench.store)
    with bench.database.transaction() as session:
        assert lifecycle.admit_validated(session) == 1
    assert bench.status() == "queued"


def test_missing_blob_does_not_stop_expiry(bench: Bench) -> None:
    with bench.database.transaction() as session:
        file = make_file(session, bench.project)
    let_expire(bench.database, file.id)
    remove_expired(bench.database, bench.store)
    with bench.database.transaction() as session:
        assert session.get(File, file.id) is None


def test_expired_upload_loses_all_its_parts(bench: Bench) -> None:
    with bench.database.transaction() as session:
        upload, pending = (
            chunked_uploads.create_upload(
                session, bench.project, size=2, filename="f", purpose="batch", file_seconds=None, max_bytes=9
            )
            for _ in range(2)
        )
        session.execute(update(Upload).where(Upload.id == upload.id).values(expires_at=func.now()))
        session.add(UploadPart(id="part_1", upload_id=upload.id, bytes=1))
    bench.store.write(chunked_uploads.part_blob(upload.id, "part_1"), [b"1"])
    bench.store.write(chunked_uploads.part_blob(upload.id, "part_without_row"), [b"1"])
    bench.store.write(chunked_uploads.part_blob(pending.id, "part_2"), [b"1"])
    for _ in range(2):
        remove_expired(bench.database, bench.store)
    assert bench.store.list("uploads") == [f"uploads/{pending.id}/part_2"]
    with bench.database.transaction() as session:
        assert session.get(UploadPart, "part_1") is None
        assert session.get_one(Upload, upload.id).status == "expired"
        assert session.get_one(Upload, pending.id).status == "pending"


def test_any_worker_runs_all_sweeps(plant: Plant) -> None:
    with plant.database.transaction() as session:
        file = make_file(session, plant.project)
    plant.store.write(file.blob, [b"{}"])
    let_expire(plant.database, file.id)
    with plant.train_worker() as worker:
        eventually(lambda: not plant.store.exists(file.blob))
        eventually(lambda: last_sweeps(plant.database).keys() == {"jobs", "leases", "expiry", "orphans"})
    assert {name.rpartition(":")[2] for name in last_sweeps(plant.database).values()} == {str(worker.pid)}
