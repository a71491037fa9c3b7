"""The embedded Postgres against real servers."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
from sqlalchemy.engine import make_url

from app.local.placement import FALLBACK_UID, can_access
from app.local.postgres import EmbeddedPostgres
from app.local.postgres_binaries import Binaries, available, choose
from app.local.process import Identity, LocalStackError
from tests.local.conftest import assert_all_end, engine_uid, family

ROOT = Path(__file__).parents[2]


def dsn(postgres: EmbeddedPostgres) -> str:
    return postgres.url.replace("postgresql+psycopg://", "postgresql://")


def query(postgres: EmbeddedPostgres, statement: str) -> str:
    with psycopg.connect(dsn(postgres)) as connection:
        row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return str(row[0])


def keep_a_row(postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(dsn(postgres)) as connection:
        connection.execute("DROP TABLE IF EXISTS kept")
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")


def server_pid(postgres: EmbeddedPostgres) -> int:
    return int((postgres.data_dir / "postmaster.pid").read_text().split()[0])


def wheel_only() -> list[Binaries]:
    return [offer for offer in available() if offer.from_wheel]


@pytest.mark.parametrize("offers", [None, wheel_only()], ids=["best", "wheel"])
def test_data_survives_a_restart(state_dir: Path, offers: list[Binaries] | None) -> None:
    with EmbeddedPostgres(state_dir, binaries=offers) as postgres:
        keep_a_row(postgres)
        first = psutil.Process(server_pid(postgres))
    assert not first.is_running()
    with EmbeddedPostgres(state_dir, binaries=offers) as again:
        assert query(again, "SELECT answer FROM kept") == "42"


def test_the_server_is_private_and_careful(used_state_dir: Path) -> None:
    with EmbeddedPostgres(used_state_dir) as postgres:
        settings = {
            name: query(postgres, f"SELECT current_setting('{name}')")
            for name in ("listen_addresses", "data_checksums", "fsync", "server_encoding", "TimeZone")
        }
        url = make_url(postgres.url)
        socket_dir = Path(str(url.query["host"]))
        server = psutil.Process(server_pid(postgres))
        assert (socket_dir.stat().st_mode & 0o777, server.uids().real) == (0o700, engine_uid(used_state_dir))
    assert (url.database, url.username, url.password) == ("grouptune", "grouptune", None)
    assert settings == {
        "listen_addresses": "",
        "data_checksums": "on",
        "fsync": "on",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
    }


@pytest.mark.parametrize("offers", [None, wheel_only()], ids=["best", "wheel"])
def test_a_state_directory_that_others_cannot_enter_works(
    closed_state_dir: Path, offers: list[Binaries] | None
) -> None:
    parent_mode = closed_state_dir.parent.stat().st_mode
    with EmbeddedPostgres(closed_state_dir, binaries=offers) as postgres:
        keep_a_row(postgres)
        home = postgres.data_dir
    with EmbeddedPostgres(closed_state_dir, binaries=offers) as again:
        assert query(again, "SELECT answer FROM kept") == "42"
        assert again.data_dir == home
    assert closed_state_dir.parent.stat().st_mode == parent_mode


def test_binaries_that_the_server_user_cannot_reach_are_copied_once(closed_state_dir: Path) -> None:
    wheel = wheel_only()[0]
    package = wheel.directory.parents[1]
    for name in (package.name, f"{package.name}.libs"):
        shutil.copytree(package.with_name(name), closed_state_dir / name, symlinks=True)
    hidden = Binaries(closed_state_dir / package.name / "pginstall" / "bin", wheel.version, from_wheel=True)
    with EmbeddedPostgres(closed_state_dir, binaries=[hidden]) as postgres:
        program = Path(psutil.Process(server_pid(postgres)).exe())
        assert query(postgres, "SELECT 1") == "1"
    if os.geteuid() == 0:
        stranger = Identity(FALLBACK_UID, FALLBACK_UID)
        assert can_access(program, stranger, 0o5)
        assert choose([hidden], None, stranger).directory == program.parent
    else:
        assert program.parent == hidden.directory


def test_a_kill_of_the_server_leaves_the_data_usable(used_state_dir: Path) -> None:
    postgres = EmbeddedPostgres(used_state_dir)
    postgres.start()
    keep_a_row(postgres)
    processes = family(server_pid(postgres))
    processes[0].send_signal(signal.SIGKILL)
    postgres.stop()
    assert_all_end(processes)
    with EmbeddedPostgres(used_state_dir) as again:
        assert query(again, "SELECT answer FROM kept") == "42"


def test_a_stale_pid_file_that_names_a_stranger_is_removed(used_state_dir: Path) -> None:
    with EmbeddedPostgres(used_state_dir) as postgres:
        pid_file = postgres.data_dir / "postmaster.pid"
        content = pid_file.read_text()
    with subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"]) as stranger:
        try:
            pid_file.write_text(content.replace(content.split()[0], str(stranger.pid), 1))
            with EmbeddedPostgres(used_state_dir) as again:
                assert query(again, "SELECT 1") == "1"
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_an_interrupted_initdb_is_repeated(state_dir: Path) -> None:
    postgres = EmbeddedPostgres(state_dir)
    postgres.spec()
    half_done = postgres.data_dir.with_name("data.new")
    postgres.data_dir.rename(half_done)
    (half_done / "PG_VERSION").unlink()
    with EmbeddedPostgres(state_dir) as again:
        assert query(again, "SELECT 1") == "1"
    assert not half_done.exists()


def test_data_of_another_major_version_is_refused(used_state_dir: Path) -> None:
    postgres = EmbeddedPostgres(used_state_dir)
    postgres.spec()
    version = postgres.data_dir / "PG_VERSION"
    before = version.read_text()
    version.write_text("12\n")
    with pytest.raises(LocalStackError, match=r"made by Postgres 12, but this machine has 1\d\.\d+ in"):
        EmbeddedPostgres(used_state_dir).start()
    version.write_text(before)


def test_existing_data_decides_between_several_binaries(state_dir: Path) -> None:
    path, wheel = (
        Binaries(Path("/a"), "15.1", from_wheel=False),
        Binaries(Path("/b"), "18.6", from_wheel=True),
    )
    assert choose([path, wheel], None, None) is path
    assert choose([path, wheel], 18, None) is wheel


def test_an_awkward_path_gets_a_short_socket_directory(state_dir: Path) -> None:
    state = state_dir / ("long, with blanks & commas " + "x" * 120)
    try:
        with EmbeddedPostgres(state) as postgres:
            assert query(postgres, "SELECT current_user") == "grouptune"
            socket_dir = Path(str(make_url(postgres.url).query["host"]))
            assert socket_dir.stat().st_mode & 0o777 == 0o700
    finally:
        EmbeddedPostgres(state).remove_data()
    assert not socket_dir.exists()


def test_a_server_that_cannot_start_shows_its_log(used_state_dir: Path) -> None:
    postgres = EmbeddedPostgres(used_state_dir)
    postgres.spec()
    settings = postgres.data_dir / "postgresql.conf"
    before = settings.read_text()
    settings.write_text("no_such_setting = 1\n")
    with pytest.raises(LocalStackError, match="no_such_setting"):
        postgres.start()
    settings.write_text(before)


def test_a_lost_data_directory_is_not_silently_replaced(state_dir: Path) -> None:
    (state_dir / "postgres.location").write_text("/nonexistent/grouptune\n")
    with pytest.raises(LocalStackError, match="which is gone: remove it to start anew"):
        EmbeddedPostgres(state_dir).start()
    (state_dir / "postgres.location").unlink()


def interpreter_for(identity: Identity) -> str:
    """A Python that the user can run: ours, or the system's of the same version if ours lies under /root."""
    ours = Path(sys.executable)
    if can_access(ours, identity, 0o5) and can_access(Path(sys.base_prefix), identity):
        return str(ours)
    other = shutil.which("python{}.{}".format(*sys.version_info[:2]), path="/usr/local/bin:/usr/bin")
    if other is None or not can_access(Path(other), identity, 0o5):
        pytest.skip("no Python that an unprivileged user can run")
    return other


def test_an_ordinary_user_needs_no_system_directory(state_dir: Path) -> None:
    as_root = os.geteuid() == 0
    identity = Identity(FALLBACK_UID, FALLBACK_UID) if as_root else Identity(os.geteuid(), os.getegid())
    home = state_dir / "home"
    home.mkdir(0o700)
    os.chown(home, identity.uid, identity.gid)
    script = (
        "import pathlib, psycopg\n"
        "from app.local.postgres import EmbeddedPostgres\n"
        f"state = pathlib.Path({str(home / 'state')!r})\n"
        "with EmbeddedPostgres(state) as postgres:\n"
        "    psycopg.connect(postgres.url.replace('+psycopg', '')).close()\n"
        "    print(postgres.data_dir)\n"
    )
    answer = subprocess.run(
        [interpreter_for(identity), "-c", script],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        user=identity.uid if as_root else None,
        group=identity.gid if as_root else None,
        extra_groups=[] if as_root else None,
    )
    assert answer.stdout.strip() == str(home / "state" / "postgres" / "data"), answer.stderr
    assert list(home.glob("state/postgres.location")) == []
