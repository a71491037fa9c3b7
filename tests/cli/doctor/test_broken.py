"""`grouptune doctor` on broken installations: every check reports, or says why it could not look."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from sqlalchemy import NullPool, create_engine, make_url, text

from app.core.doctor.finding import DoctorFinding, FindingLevel
from app.local.placement import is_root
from tests.cli.conftest import ROOT
from tests.cli.doctor.test_command import CHECKS, doctor
from tests.http_server import free_port
from tests.small_disk import fill, small_disk

HOURS: Final = 3
RIGHT, WRONG = "right", "hunter2"
Findings = dict[str, DoctorFinding]


@pytest.fixture(scope="module")
def admin(postgres: str) -> Iterator[Any]:
    engine = create_engine(postgres, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture(scope="module")
def new_database(admin: Any) -> Iterator[str]:
    """A database without a schema, whose clock is off and whose role needs a password."""
    name = f"grouptune_broken_{os.getpid()}"
    url = make_url(admin.engine.url).set(database=name)
    rules = Path(admin.scalar(text("SHOW hba_file")))
    before = rules.read_text()
    admin.execute(text(f"CREATE DATABASE {name}"))
    admin.execute(text(f"CREATE ROLE {name} LOGIN SUPERUSER PASSWORD 'right'"))
    with create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool).connect() as connection:
        # The first function of this name in the search path replaces Postgres' own.
        connection.execute(text("CREATE SCHEMA clock"))
        connection.execute(
            text(
                "CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS "
                f"$$SELECT pg_catalog.clock_timestamp() + interval '{HOURS} hours'$$"
            )
        )
        connection.execute(text(f"ALTER DATABASE {name} SET search_path = clock, pg_catalog, public"))
    rules.write_text(f"local {name} {name} scram-sha-256\n{before}")
    admin.execute(text("SELECT pg_reload_conf()"))
    yield url.set(username=name, password=RIGHT).render_as_string(hide_password=False)
    rules.write_text(before)
    admin.execute(text("SELECT pg_reload_conf()"))
    admin.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.execute(text(f"DROP ROLE {name}"))


@pytest.fixture(scope="module")
def locked_broker(broker_url: str) -> Iterator[str]:
    """A broker that needs another password."""
    with redis.Redis(unix_socket_path=broker_url.removeprefix("redis+socket://")) as client:
        client.config_set("requirepass", "right")
        yield broker_url
        client.execute_command("AUTH", "right")
        client.config_set("requirepass", "")


@pytest.fixture(scope="module")
def broken(new_database: str, locked_broker: str, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """The findings on an installation of which nothing works."""
    with small_disk(tmp_path_factory.mktemp("disk") / "full", kibibytes=64) as state_dir:
        fill(state_dir)
        code, findings, _ = doctor(
            "--history",
            DATABASE_URL=new_database,
            REDIS_URL=locked_broker,
            GROUPTUNE_STATE_DIR=str(state_dir),
            GROUPTUNE_SERVE_URL=f"http://127.0.0.1:{free_port()}",
        )
    assert code == 1
    return findings


def test_every_check_reports(broken: Findings) -> None:
    assert set(broken) == {*CHECKS, "history"} - {"workers"}
    assert not any("could not be checked" in broken[check].message for check in CHECKS if check in broken)


def test_empty_schema(broken: Findings) -> None:
    assert "the schema is empty" in broken["migrations"].message
    assert broken["migrations"].fix == "run `grouptune db upgrade`"
    assert "could not be checked without a database" in broken["history"].message


def test_wrong_clock(broken: Findings) -> None:
    assert broken["clock"].level is FindingLevel.failed
    assert f"{HOURS * 3600}" in broken["clock"].message


def test_missing_engines_of_grouptune_up(short_dir: Path) -> None:
    """No Postgres of the data's version is installed, and Valkey does not run."""
    data = short_dir / "old" / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9\n")
    unset = dict.fromkeys(("DATABASE_URL", "REDIS_URL"))
    code, findings, _ = doctor("--history", **unset, GROUPTUNE_STATE_DIR=str(short_dir / "old"))
    assert code == 1
    assert findings["postgres"].level is FindingLevel.failed
    assert "postgres.log" in (findings["postgres"].fix or "")
    assert "the embedded Valkey is not running" in findings["broker"].message
    assert set(findings) == {*CHECKS, "history"} - {"migrations", "clock", "workers"}


def test_missing_engine_for_inference(broken: Findings) -> None:
    assert broken["engine"].level is FindingLevel.warning
    assert "GROUPTUNE_SERVE_URL" in (broken["engine"].fix or "")


def test_full_disk(broken: Findings) -> None:
    assert "0.0 of 0.0 GB free" in broken["disk"].message
    assert "No space left on device" in broken["storage"].message


def test_wrong_password_of_the_broker(broken: Findings) -> None:
    assert broken["broker"].level is FindingLevel.failed
    assert "uthentication required" in broken["broker"].message


def test_wrong_password_of_the_database(new_database: str, tmp_path: Path) -> None:
    url = make_url(new_database).set(password=WRONG).render_as_string(hide_password=False)
    unset = {"REDIS_URL": "redis://127.0.0.1:none/0", "GROUPTUNE_STATE_DIR": str(tmp_path)}
    code, findings, printed = doctor("--history", DATABASE_URL=url, **unset)
    assert code == 1
    assert "password authentication failed" in findings["postgres"].message
    assert "could not be checked" in findings["broker"].message  # no valid URL
    assert findings["storage"].level is FindingLevel.ok
    assert "could not be checked" in findings["history"].message
    assert "hunter2" not in printed


def test_bad_settings() -> None:
    code, findings, printed = doctor(
        GROUPTUNE_LEASE_SECONDS="soon", REDIS_URL="rediss://:hunter2@h:1/0", GROUPTUNE_SERVE_URL="nowhere"
    )
    assert (code, set(findings)) == (1, {"settings"})
    assert [name in printed for name in ("GROUPTUNE_LEASE_SECONDS", "REDIS_URL", "GROUPTUNE_SERVE_URL")] == [True] * 3
    assert "hunter2" not in printed


def test_unreadable_state_directory(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir(mode=0)
    # Without these two capabilities the modes of files apply to root, too.
    mortal = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if is_root() else []
    if mortal and subprocess.run([*mortal, "true"], capture_output=True).returncode != 0:
        pytest.skip("setpriv is not allowed")
    unset = ("DATABASE_URL", "REDIS_URL", "GROUPTUNE_SECRET_KEYS_FILE")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"GROUPTUNE_STATE_DIR": str(state_dir)}
    words = [sys.executable, "-m", "app.cli", "doctor", "--json", "--history"]
    done = subprocess.run([*mortal, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    entries = {entry["check"]: entry for entry in json.loads(done.stdout)["findings"] if entry["level"] == "failed"}
    for check in ("postgres", "broker", "storage", "keys", "history"):
        assert entries[check]["fix"]
    assert "Permission denied" in entries["postgres"]["message"]
