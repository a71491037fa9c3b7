"""Backups: a restore brings back every row and blob, or changes nothing. Real databases and stores on both sides."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.orm import Session

from app.core import migrate
from app.core.accounts import api_key_admin, api_keys, audit
from app.core.accounts.audit import Action, Actor
from app.core.backup import dump as dumping
from app.core.backup import restore as restoring
from app.core.backup.archive import BackupDamaged, BackupReader, BackupWriter
from app.core.backup.contents import MANIFEST, Manifest
from app.core.backup.dump import DumpResult
from app.core.backup.restore import NotEmpty, RestoreResult
from app.core.db import Database
from app.core.errors import BadSetup
from app.core.files import chunked_uploads
from app.core.files.uploads import ReceivedFile
from app.core.jobs import checkpoints, invariants, leases, outcomes
from app.core.jobs.checkpoints import StoredCheckpoint
from app.core.models import aliases
from app.core.spec.reports import Finished
from app.core.storage.blobs import BlobStore
from app.core.storage.local import LocalBlobStore
from app.core.storage.s3 import Bucket, S3BlobStore
from app.core.tables import metadata
from tests.s3_server import BUCKET, CREDENTIALS
from tests.setup_jobs import make_job, make_project, metrics_csv, stored_file
from tests.setup_models import stored_export

BIG = 9 << 20
"""More than one part of a multipart upload."""


@pytest.fixture
def target(migrated_url: str) -> Iterator[Database]:
    """An empty database without a schema, on the same server."""
    url = make_url(migrated_url)
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    name = f"{url.database}_target"
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    database = Database(url.set(database=name).render_as_string(hide_password=False))
    yield database
    database.dispose()
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(params=["local", "s3"])
def stores(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[BlobStore, ...]:
    """The store that is dumped and the store that is restored into."""
    if request.param == "local":
        return LocalBlobStore(tmp_path / "from"), LocalBlobStore(tmp_path / "to")
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    address = request.getfixturevalue("s3_address")
    return tuple(
        S3BlobStore(Bucket(BUCKET, f"{tmp_path.name}/{name}", "us-east-1", address)) for name in ("from", "to")
    )


def put_tree(store: BlobStore, scratch: Path, prefix: str, content: bytes) -> str:
    directory = scratch / prefix
    (directory / "state").mkdir(parents=True)
    (directory / "adapter_model.safetensors").write_bytes(content)
    (directory / "state" / "rng.json").write_bytes(b"{}")
    store.put_tree(prefix, directory)
    return prefix


def make_installation(session: Session, store: BlobStore, scratch: Path) -> dict[str, str]:
    """Create a finished job with a model and an alias, a running one with a checkpoint, an upload, keys, and a log."""
    project = make_project(session)
    file = stored_file(session, store, project, scratch)
    converted = store.write(f"{file.blob}-rows", [b"{}"])
    file.rows_blob, file.rows_sha256 = f"{file.blob}-rows", converted.sha256
    actor = Actor(project, key_id=api_keys.ensure_bootstrap(session, None).split("_")[2])
    api_key_admin.mint(
        session,
        actor,
        project_id=project,
        name="é\t\\N\n",
        granted=["jobs:*"],
        requests_per_minute=None,
        expires_in=None,
    )
    done = make_job(session, project, file=file)
    claim = leases.claim(session, "w", 60)
    assert claim is not None
    adapter = put_tree(store, scratch, f"jobs/{done.id}/a1/adapter", b"a" * BIG)
    csv = metrics_csv()
    stored = store.write(csv.blob, [b"step\n"])
    csv = ReceivedFile(csv.file_id, csv.blob, stored.bytes, stored.sha256)
    report = Finished(path="", step=0, trained_tokens=1, published_step=0, reason="last")
    model = outcomes.succeed(session, claim, report, adapter, "tiny", csv)
    assert model is not None
    aliases.move(session, project, "prod", model)
    stored_export(session, store, project, model)
    running = make_job(session, project, file=file)
    claim = leases.claim(session, "w", 60)
    assert claim is not None
    for step in (1, 2):
        blob = put_tree(store, scratch, f"jobs/{running.id}/a1/checkpoints/step-{step:08d}", b"c")
        checkpoints.record(session, claim, StoredCheckpoint(step, blob, {}, has_adapter=True))
    upload = chunked_uploads.create_upload(
        session, project, size=3, filename="x", purpose="user_data", file_seconds=None, max_bytes=9
    )
    part = chunked_uploads.receive_part(store, upload.id, [b"abc"])
    chunked_uploads.add_part(session, project, upload.id, part)
    return {"project": project, "running": running.id, "file": file.id, "file_blob": file.blob, "part": part.blob}


@pytest.fixture
def installation(database: Database, stores: tuple[BlobStore, ...], tmp_path: Path) -> dict[str, str]:
    with database.transaction() as session:
        return make_installation(session, stores[0], tmp_path)


def dump(database: Database, store: BlobStore, path: Path) -> DumpResult:
    with path.open("wb") as out:
        return dumping.dump(database, store, out, lambda _: None)


def restore(
    database: Database, store: BlobStore, path: Path, *, replace: bool = False, **limits: float
) -> RestoreResult:
    return restoring.restore(database, store, path, lambda _: None, replace=replace, **limits)


def rows(database: Database) -> dict[str, list[Any]]:
    """Return all rows of every table."""
    by_table = {}
    with database.transaction() as session:
        for table in metadata.sorted_tables:
            name = table.name
            query = f'SELECT to_jsonb(t) FROM "{name}" AS t ORDER BY t::text'  # noqa: S608 - our tables
            by_table[name] = list(session.scalars(text(query)))
    return by_table


def blobs(store: BlobStore) -> dict[str, str]:
    return {key: store.digest(key) for prefix in ("exports", "files", "jobs", "uploads") for key in store.list(prefix)}


def breaches(database: Database, store: BlobStore) -> list[invariants.Breach]:
    with database.transaction() as session:
        return invariants.breaches(session, store.exists)


def test_restore_brings_back_rows_and_blobs(
    database: Database, target: Database, stores: tuple[BlobStore, ...], installation: dict[str, str], tmp_path: Path
) -> None:
    source, destination = stores
    source.write("jobs/orphan", [b"named by nothing"])
    dumped = dump(database, source, tmp_path / "backup")
    assert dumped.problems == []
    restored = restore(target, destination, tmp_path / "backup")
    assert rows(target) == rows(database)
    assert blobs(destination) == {key: digest for key, digest in blobs(source).items() if key != "jobs/orphan"}
    assert restored.blobs == len(blobs(destination))
    assert breaches(target, destination) == []
    with target.transaction() as session:  # sequences continue after the restored values
        actor = Actor(installation["project"])
        before = session.scalar(text("SELECT max(seq) FROM audit_log"))
        audit.record(session, actor, Action.alias_move, "x", before=None, after={"model": "y"})
        session.flush()
        assert session.scalar(text("SELECT max(seq) FROM audit_log")) == before + 1
    # The archive can be read without Grouptune, by standard tools.
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "backup", "-C", tmp_path / "unpacked"], check=True)
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=tmp_path / "unpacked", check=True)


def test_backup_covers_every_blob_column() -> None:
    columns = {f"{table.name}.{c.name}" for table in metadata.sorted_tables for c in table.columns if "blob" in c.name}
    assert columns == {"files.blob", "files.rows_blob", "models.blob", "checkpoints.blob", "exports.blob"}


class _InterruptedStore(LocalBlobStore):
    """A store that calls `happen` just before the first blob is read."""

    def __init__(self, root: Path, happen: Callable[[], None]) -> None:
        super().__init__(root)
        self._happen: Callable[[], None] | None = happen

    @contextmanager
    def as_file(self, key: str, tick: Callable[[], None]) -> Iterator[Path]:
        if self._happen is not None:
            happen, self._happen = self._happen, None
            happen()
        with super().as_file(key, tick) as path:
            yield path


@pytest.mark.parametrize("stores", ["local"], indirect=True)
def test_deletions_during_a_dump(
    database: Database, target: Database, stores: tuple[BlobStore, ...], installation: dict[str, str], tmp_path: Path
) -> None:
    """A row whose blob is deleted during the dump is left out; a missing blob that is still needed is reported."""
    source, destination = stores
    missing_blob = f"jobs/{installation['running']}/a1/checkpoints/step-00000002/state/rng.json"

    def happen() -> None:
        with database.transaction() as session:
            checkpoint_blob = session.scalars(text("DELETE FROM checkpoints WHERE step = 1 RETURNING blob")).one()
            session.execute(text("DELETE FROM models WHERE blob = :blob"), {"blob": checkpoint_blob})
            session.execute(text("DELETE FROM model_aliases"))
            adapter_blob = session.scalars(text("DELETE FROM models WHERE step IS NULL RETURNING blob")).one()
            session.execute(text("UPDATE uploads SET status = 'cancelled'"))
        for blob in (checkpoint_blob, adapter_blob, installation["part"]):
            source.discard(blob)
        source.delete(missing_blob)

    dumped = dump(database, _InterruptedStore(tmp_path / "from", happen), tmp_path / "backup")
    assert len(dumped.problems) == 1
    assert missing_blob in dumped.problems[0]
    restore(target, destination, tmp_path / "backup")
    after = rows(target)
    assert [row["step"] for row in after["checkpoints"]] == [2]
    assert [row["step"] for row in after["models"]] == [2]
    assert (after["model_aliases"], after["upload_parts"]) == ([], [])
    assert [row["status"] for row in after["uploads"]] == ["pending"]


@pytest.mark.parametrize("stores", ["local"], indirect=True)
def test_damaged_backup_changes_nothing(
    database: Database, target: Database, stores: tuple[BlobStore, ...], installation: dict[str, str], tmp_path: Path
) -> None:
    source, destination = stores
    path = tmp_path / "backup"
    dump(database, source, path)
    original = path.read_bytes()
    damaged = {
        "cut in a blob": original[: len(original) // 2],
        "cut before the digests": original[: original.rindex(b"SHA256SUMS")] + b"\0" * 1024,
        "another row": original.replace(b"\tdefault\t", b"\tdefaulT\t"),
        "a row that does not fit": original.replace(b"\tsucceeded\t", b"\tsucceedeD\t", 1),
        "another blob": original.replace(b"a" * 1000, b"a" * 999 + b"b", 1),
        "no tar": b"backup" * 1000,
        "empty": b"",
    }
    for name, content in damaged.items():
        assert content != original
        path.write_bytes(content)
        with pytest.raises(BackupDamaged):
            restore(target, destination, path)
        assert blobs(destination) == {}, name
        with target.transaction() as session:
            assert session.scalar(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")) == 0, name


@pytest.mark.parametrize("stores", ["local"], indirect=True)
def test_restore_replaces_only_on_request(
    database: Database, stores: tuple[BlobStore, ...], installation: dict[str, str], tmp_path: Path
) -> None:
    source, _ = stores
    dump(database, source, tmp_path / "backup")
    before = rows(database)
    running, blob = installation["running"], installation["file_blob"]
    with database.transaction() as session:
        session.execute(text("UPDATE jobs SET epoch = 2 WHERE id = :id"), {"id": running})
    later = f"jobs/{running}/a2/checkpoints/step-00000003/weights"
    source.write(later, [b"of an attempt after the backup"])
    good = source.digest(blob)
    source.delete(blob)
    source.write(blob, [b"damaged since"])
    with pytest.raises(NotEmpty, match=r"2 jobs, 2 files, .*--replace"):
        restore(database, source, tmp_path / "backup")
    with database.engine.connect() as connection:  # an API that is still running
        connection.execute(text("SELECT FROM jobs FOR SHARE"))
        with pytest.raises(BadSetup, match="stop the API and the workers"):
            restore(database, source, tmp_path / "backup", replace=True, lock_seconds=0.1)
    assert source.exists(later)
    restore(database, source, tmp_path / "backup", replace=True)
    assert rows(database) == before
    assert source.digest(blob) == good
    assert not source.exists(later)
    assert breaches(database, source) == []


def small_backup(path: Path, revision: str, created_at: str = "2026-01-01T00:00:00Z") -> Path:
    tables = {"projects": ["id", "name"]}
    manifest = Manifest.model_validate(
        {"version": "9.9", "revision": revision, "created_at": created_at, "tables": tables}
    )
    with path.open("wb") as out:
        writer = BackupWriter(out)
        writer.add_bytes(MANIFEST, manifest.model_dump_json().encode())
        writer.add_bytes("tables/projects/000000", b"proj_1\toutdated\n")
        writer.close()
    return path


def test_older_backup_is_migrated_newer_rejected(target: Database, tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    with pytest.raises(BadSetup, match=r"made by Grouptune 9\.9"):
        restore(target, store, small_backup(tmp_path / "newer", "9999"))
    restore(target, store, small_backup(tmp_path / "older", "0001"))
    with target.transaction() as session:
        assert migrate.is_head(session.connection())
        assert session.execute(text("SELECT name, strict_enums FROM projects")).all() == [("outdated", False)]


@pytest.mark.parametrize("name", ["blobs/../../x", "blobs//x", "tables/pg_authid/000000", "x"])
def test_unsafe_member_names_are_rejected(target: Database, tmp_path: Path, name: str) -> None:
    path = tmp_path / "backup"
    with BackupReader.opened(small_backup(tmp_path / "good", migrate.head())) as reader, path.open("wb") as out:
        writer = BackupWriter(out)
        for member in reader:
            writer.add_bytes(member.name, member.content())
        writer.add_bytes(name, b"x")
        writer.close()
    with pytest.raises((BackupDamaged, ValueError)):
        restore(target, LocalBlobStore(tmp_path / "store"), path)
    assert not (tmp_path / "x").exists()
