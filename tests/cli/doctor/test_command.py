"""`grouptune doctor` on working and broken installations."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from sqlalchemy import LargeBinary, create_engine, make_url, text

from app.cli.doctor import checks
from app.core import migrate
from app.core.db import Database
from app.core.doctor import database as database_checks
from app.core.doctor import machine, services
from app.core.doctor.finding import DoctorFinding, FindingLevel
from app.core.secrets import KeyRing, new_key
from app.core.storage.blobs import BlobMissing
from app.core.storage.local import LocalBlobStore
from app.core.tables import metadata
from app.core.teachers.tables import TeacherKey
from app.local.stack import Stack
from tests.cli.conftest import ROOT
from tests.forked import Program
from tests.setup_jobs import make_file, make_job, make_project

CHECKS = ("postgres", "migrations", "clock", "workers", "broker", "storage", "engine", "disk", "models", "keys", "gpu")


def doctor(*words: str, **environment: str | None) -> tuple[int, dict[str, DoctorFinding], str]:
    """Return the exit code, the worst finding of each check, and the whole output."""
    merged = {name: value for name, value in (os.environ | environment).items() if value is not None}
    with TemporaryDirectory() as scratch:
        out, err = Path(scratch, "out"), Path(scratch, "err")
        arguments = ("doctor", "--json", *words)
        with Program("app.cli", arguments, directory=ROOT, environment=merged, stdout=out, stderr=err) as process:
            code = process.wait(240)
        printed = out.read_text()
    report = json.loads(printed)
    findings: dict[str, DoctorFinding] = {}
    for entry in report["findings"]:
        finding = DoctorFinding(entry["check"], FindingLevel(entry["level"]), entry["message"], entry["fix"])
        assert (finding.fix is None) == (finding.level is FindingLevel.ok), finding
        if finding.check not in findings or finding.level is FindingLevel.failed:
            findings[finding.check] = finding
    assert report["status"] == str(checks.worst(list(findings.values())))
    return code, findings, printed


def test_running_installation_is_ok(stack: Stack) -> None:
    own = {"GROUPTUNE_STATE_DIR": str(stack.state_dir), "DATABASE_URL": None, "REDIS_URL": None}
    code, findings, _ = doctor("--history", **own)
    bad = [finding for finding in findings.values() if finding.level is FindingLevel.failed]
    assert (code, [finding for finding in bad if finding.check != "disk"]) == (1 if bad else 0, [])
    assert set(findings) == {*CHECKS, "history"}
    assert findings["workers"].message.startswith("2 running")
    assert "tiny" in findings["models"].message
    assert "torch" in findings["gpu"].message


def test_missing_installation(tmp_path: Path) -> None:
    nowhere = tmp_path / "none"
    unset = dict.fromkeys(("DATABASE_URL", "REDIS_URL", "GROUPTUNE_SECRET_KEYS_FILE"))
    code, findings, _ = doctor("--state-dir", str(nowhere), **unset, GROUPTUNE_STORAGE_URL=None)
    assert code == 1
    assert "grouptune up" in (findings["postgres"].fix or "")
    assert set(findings) == {"postgres", "disk", "models", "gpu"}
    assert not nowhere.exists()


def test_unreachable_services_hide_passwords(tmp_path: Path) -> None:
    code, findings, everything = doctor(
        DATABASE_URL="postgresql+psycopg://me:hunter2@127.0.0.1:9/there",
        REDIS_URL="redis://:hunter2@127.0.0.1:9/0",
        GROUPTUNE_STATE_DIR=str(tmp_path),
    )
    assert code == 1
    assert findings["postgres"].level is findings["broker"].level is FindingLevel.failed
    assert "127.0.0.1/there cannot be reached" in findings["postgres"].message
    assert "hunter2" not in everything


def test_history_reports_broken_invariants(
    database: Database, migrated_url: str, broker_url: str, tmp_path: Path
) -> None:
    with database.transaction() as session:
        project = make_project(session)
        file = make_file(session, project)
        job = make_job(session, project, file=file)
    blob = tmp_path / "storage" / file.blob
    blob.parent.mkdir(parents=True)
    blob.touch()
    own = {"DATABASE_URL": migrated_url, "REDIS_URL": broker_url, "GROUPTUNE_STATE_DIR": str(tmp_path)}
    _, findings, _ = doctor("--history", **own)
    assert findings["history"].level is FindingLevel.ok
    with database.transaction() as session:
        session.execute(text("DELETE FROM job_events WHERE seq = 1"))
    code, findings, _ = doctor("--history", **own)
    assert code == 1
    assert f"{job.id}: violated invariant: events are numbered" in findings["history"].message


@pytest.fixture
def odd_database(migrated_url: str) -> Iterator[str]:
    """Create a badly configured database without a schema."""
    url = make_url(migrated_url)
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    name = f"{url.database}_odd"
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'"))
        connection.execute(text(f"ALTER DATABASE {name} SET synchronous_commit = off"))
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    yield url.set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


def test_unsafe_database_settings(odd_database: str) -> None:
    said = {finding.message.partition(":")[0]: finding.level for finding in database_checks.check(odd_database, 60)}
    assert said["synchronous_commit is off"] is FindingLevel.warning
    assert said["default_transaction_read_only is on"] is FindingLevel.failed
    assert said["the database's encoding is SQL_ASCII"] is FindingLevel.failed
    assert said["the schema is empty, not " + migrate.head()] is FindingLevel.failed


def test_clock_skew(migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    for away, level in ((20, FindingLevel.warning), (400, FindingLevel.failed), (0, FindingLevel.ok)):
        monkeypatch.setattr(time, "time", lambda away=away: now() + away)
        findings = {finding.check: finding for finding in database_checks.check(migrated_url, 60)}
        assert findings["clock"].level is level


def test_incomplete_models(tiny_models: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_models, tmp_path / "models")
    assert [finding.level for finding in machine.check_models(tmp_path / "models")] == [FindingLevel.ok]
    weights = tmp_path / "models" / "tiny" / "model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[:-1], whole[:4], b"", b"\0" * 100):
        weights.write_bytes(content)
        first = next(machine.check_models(tmp_path / "models"))
        assert (first.level, str(weights.parent) in (first.fix or "")) == (FindingLevel.failed, True)


class _ForgetfulBlobStore(LocalBlobStore):
    def open(self, key: str) -> Any:
        raise BlobMissing(f"The blob store holds nothing under '{key}'.")


def test_blob_store_that_loses_blobs(tmp_path: Path) -> None:
    assert services.check_store(LocalBlobStore(tmp_path), "here").level is FindingLevel.ok
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert services.check_store(_ForgetfulBlobStore(tmp_path), "here").level is FindingLevel.failed
    (tmp_path / "file").touch()
    assert services.check_store(LocalBlobStore(tmp_path / "file"), "here").level is FindingLevel.failed


def test_missing_or_readable_secret_key(database: Database, migrated_url: str, tmp_path: Path) -> None:
    key = new_key()
    with database.transaction() as session:
        project = make_project(session)
        session.execute(
            text(
                "INSERT INTO webhook_endpoints (id, project_id, name, url, event_types, secret, secret_hint) "
                "VALUES ('we_1', :project, 'x', 'https://x', '[]', :secret, 'x')"
            ),
            {"project": project, "secret": KeyRing((key,)).encrypt("whsec_x")},
        )
        session.add(
            TeacherKey(id="tk_1", project_id=project, origin="https://x", secret=KeyRing((key,)).encrypt("x"), hint="x")
        )
    good = machine.check_keys(key, None, migrated_url)
    assert (good.level, "2 stored secrets can" in good.message) == (FindingLevel.ok, True)
    lost = machine.check_keys(new_key(), None, migrated_url)
    names = "2 of 2 stored secrets cannot be decrypted: webhook endpoint we_1, teacher key tk_1"
    assert (lost.level, lost.message) == (FindingLevel.failed, names)
    assert machine.check_keys("short", None, migrated_url).level is FindingLevel.failed
    assert machine.check_keys(None, None, None).level is FindingLevel.warning
    (tmp_path / "secret_keys").write_text(key)
    (tmp_path / "secret_keys").chmod(0o644)
    assert [finding.level for finding in machine.check_private_files(tmp_path)] == [FindingLevel.warning]


def test_every_encrypted_column_is_checked() -> None:
    checked = {column for query in machine.SECRETS.values() for column in query.selected_columns}
    for table in metadata.sorted_tables:
        for column in table.columns:
            is_encrypted = isinstance(column.type, LargeBinary) and column.name.endswith("secret")
            assert not is_encrypted or column in checked, column
