"""The periodic collection of orphaned blobs in the store."""

import os
import time

from sqlalchemy import update

from app.core.files.tables import File
from tests.setup_jobs import make_file
from tests.worker.conftest import Bench
from worker.maintenance.orphaned_blobs import collect

GRACE_SECONDS = 3600.0


def age(bench: Bench, *keys: str) -> None:
    past = time.time() - 2 * GRACE_SECONDS
    for key in keys:
        os.utime(bench.store.path(key), (past, past))


def test_only_old_orphaned_blobs_are_removed(bench: Bench) -> None:
    with bench.database.transaction() as session:
        file = make_file(session, bench.project)
    for key in (file.blob, "files/old", "files/young", "jobs/gone/a1/adapter/x", "elsewhere/old"):
        bench.store.write(key, [b"x"])
    age(bench, file.blob, "files/old", "jobs/gone/a1/adapter/x", "elsewhere/old")
    assert collect(bench.database, bench.store, GRACE_SECONDS) == 2
    assert {"files/young", file.blob} <= set(bench.store.list("files"))
    assert "files/old" not in bench.store.list("files")
    assert bench.store.list("jobs") == []
    assert bench.store.list("elsewhere") == ["elsewhere/old"]
    with bench.database.transaction() as session:
        session.execute(update(File).where(File.id == file.id).values(blob="files/other"))
    assert collect(bench.database, bench.store, GRACE_SECONDS) == 1


def test_incomplete_writes_expire_after_grace(bench: Bench) -> None:
    bench.store.write("files/one", [b"x"])
    incoming = next(bench.settings.storage_dir.glob(".incoming"))
    for name, seconds in (("left", 2 * GRACE_SECONDS), ("being-written", 0.0)):
        (incoming / name).write_bytes(b"half")
        moment = time.time() - seconds
        os.utime(incoming / name, (moment, moment))
    collect(bench.database, bench.store, GRACE_SECONDS)
    assert [path.name for path in incoming.iterdir()] == ["being-written"]


def test_collection_keeps_a_queued_jobs_blobs(bench: Bench) -> None:
    assert bench.run("crash:4").status == "queued"
    keys = bench.store.list(f"jobs/{bench.job_id}")
    assert keys
    age(bench, *keys, *bench.store.list("files"))
    assert collect(bench.database, bench.store, GRACE_SECONDS) == 0
    assert bench.run("train:2").status == "succeeded"
