"""The embedded Postgres with real servers."""

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest
from sqlalchemy.engine import make_url

from app.local.errors import LocalStackError
from app.local.placement import OVERFLOW_UID, can_access
from app.local.postgres import EmbeddedPostgres
from app.local.postgres_binaries import PostgresBinaries, available, choose
from app.local.process import ProcessUser
from tests.local.conftest import assert_all_end, engine_uid, family, remove_postgres_data

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


def wheel_only() -> list[PostgresBinaries]:
    return [binaries for binaries in available() if binaries.from_wheel]


@pytest.mark.parametrize("binaries", [None, wheel_only()], ids=["best", "wheel"])
def test_data_survives_a_restart(state_dir: Path, binaries: list[PostgresBinaries] | None) -> None:
    with EmbeddedPostgres(state_dir, binaries=binaries) as postgres:
        keep_a_row(postgres)
        first = psutil.Process(server_pid(postgres))
    assert not first.is_running()
    with EmbeddedPostgres(state_dir, binaries=binaries) as again:
        assert query(again, "SELECT answer FROM kept") == "42"


def test_server_settings_are_safe(used_state_dir: Path) -> None:
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


@pytest.mark.parametrize("binaries", [None, wheel_only()], ids=["best", "wheel"])
def test_closed_state_directory(closed_state_dir: Path, binaries: list[PostgresBinaries] | None) -> None:
    parent_mode = closed_state_dir.parent.stat().st_mode
    with EmbeddedPostgres(closed_state_dir, binaries=binaries) as postgres:
        keep_a_row(postgres)
        home = postgres.data_dir
    with EmbeddedPostgres(closed_state_dir, binaries=binaries) as again:
        assert query(again, "SELECT answer FROM kept") == "42"
        assert again.data_dir == home
    assert closed_state_dir.parent.stat().st_mode == parent_mode


def test_inaccessible_binaries_are_copied(closed_state_dir: Path) -> None:
    wheel = wheel_only()[0]
    package = wheel.directory.parents[1]
    for name in (package.name, f"{package.name}.libs"):
        shutil.copytree(package.with_name(name), closed_state_dir / name, symlinks=True)
    hidden = PostgresBinaries(closed_state_dir / package.name / "pginstall" / "bin", wheel.version, from_wheel=True)
    with EmbeddedPostgres(closed_state_dir, binaries=[hidden]) as postgres:
        program = Path(psutil.Process(server_pid(postgres)).exe())
        assert query(postgres, "SELECT 1") == "1"
    if os.geteuid() == 0:
        other = ProcessUser(OVERFLOW_UID, OVERFLOW_UID)
        assert can_access(program, other, 0o5)
        assert choose([hidden], None, other).directory == program.parent
    else:
        assert program.parent == hidden.directory


def test_data_survives_a_kill(used_state_dir: Path) -> None:
    postgres = EmbeddedPostgres(used_state_dir)
    postgres.start()
    keep_a_row(postgres)
    processes = family(server_pid(postgres))
    processes[0].send_signal(signal.SIGKILL)
    postgres.stop()
    assert_all_end(processes)
    with EmbeddedPostgres(used_state_dir) as again:
        assert query(again, "SELECT answer FROM kept") == "42"


def test_server_killed_during_a_query_starts_again(used_state_dir: Path) -> None:
    """A backend of a killed server finishes its query first, and until then no new server can start."""
    postgres = EmbeddedPostgres(used_state_dir)
    postgres.start()
    keep_a_row(postgres)
    with psycopg.connect(dsn(postgres)) as connection, ThreadPoolExecutor(1) as threads:
        busy = threads.submit(connection.execute, "SELECT count(*) FROM generate_series(1, 1000000000)")
        while query(postgres, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%series(1%'") < "2":
            pass  # counts itself, too
        processes = family(server_pid(postgres))
        processes[0].send_signal(signal.SIGKILL)
        postgres.stop()
        with EmbeddedPostgres(used_state_dir) as again:
            assert query(again, "SELECT answer FROM kept") == "42"
        assert isinstance(busy.exception(), psycopg.OperationalError)
    assert_all_end(processes)


def test_stale_pid_file_is_removed(used_state_dir: Path) -> None:
    with EmbeddedPostgres(used_state_dir) as postgres:
        pid_file = postgres.data_dir / "postmaster.pid"
        content = pid_file.read_text()
    with subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"]) as other:
        try:
            pid_file.write_text(content.replace(content.split()[0], str(other.pid), 1))
            with EmbeddedPostgres(used_state_dir) as again:
                assert query(again, "SELECT 1") == "1"
            assert other.poll() is None
        finally:
            other.kill()


def test_interrupted_initdb_is_repeated(state_dir: Path) -> None:
    postgres = EmbeddedPostgres(state_dir)
    postgres.spec()
    half_done = postgres.data_dir.with_name("data.new")
    postgres.data_dir.rename(half_done)
    (half_done / "PG_VERSION").unlink()
    with EmbeddedPostgres(state_dir) as again:
        assert query(again, "SELECT 1") == "1"
    assert not half_done.exists()


def test_other_major_version_is_refused(used_state_dir: Path) -> None:
    postgres = EmbeddedPostgres(used_state_dir)
    postgres.spec()
    version = postgres.data_dir / "PG_VERSION"
    before = version.read_text()
    version.write_text("12\n")
    with pytest.raises(LocalStackError, match=r"created by Postgres 12, but this machine has 1\d\.\d+ in"):
        EmbeddedPostgres(used_state_dir).start()
    version.write_text(before)


def test_binaries_match_the_existing_data(state_dir: Path) -> None:
    path, wheel = (
        PostgresBinaries(Path("/a"), "15.1", from_wheel=False),
        PostgresBinaries(Path("/b"), "18.6", from_wheel=True),
    )
    assert choose([path, wheel], None, None) is path
    assert choose([path, wheel], 18, None) is wheel


def test_long_path_gets_a_short_socket_directory(state_dir: Path) -> None:
    state = state_dir / ("long, with blanks & commas " + "x" * 120)
    try:
        with EmbeddedPostgres(state) as postgres:
            assert query(postgres, "SELECT current_user") == "grouptune"
            socket_dir = Path(str(make_url(postgres.url).query["host"]))
            assert socket_dir.stat().st_mode & 0o777 == 0o700
    finally:
        remove_postgres_data(state)
    assert not socket_dir.exists()


def test_failed_start_shows_the_log(used_state_dir: Path) -> None:
    postgres = EmbeddedPostgres(used_state_dir)
    postgres.spec()
    settings = postgres.data_dir / "postgresql.conf"
    before = settings.read_text()
    settings.write_text("no_such_setting = 1\n")
    with pytest.raises(LocalStackError, match="no_such_setting"):
        postgres.start()
    settings.write_text(before)


def test_lost_data_directory_is_an_error(state_dir: Path) -> None:
    (state_dir / "postgres.location").write_text("/nonexistent/grouptune\n")
    with pytest.raises(LocalStackError, match="which does not exist"):
        EmbeddedPostgres(state_dir).start()
    (state_dir / "postgres.location").unlink()


def interpreter_for(user: ProcessUser) -> str:
    """Return a Python that the user can run: ours, or the system's if ours is under /root."""
    if not can_access(ROOT, user, 0o5):
        pytest.skip("the checkout is in a directory that only root can enter")
    ours = Path(sys.executable)
    if can_access(ours, user, 0o5) and can_access(Path(sys.base_prefix), user):
        return str(ours)
    other = shutil.which("python{}.{}".format(*sys.version_info[:2]), path="/usr/local/bin:/usr/bin")
    if other is None or not can_access(Path(other), user, 0o5):
        pytest.skip("no Python that an unprivileged user can run")
    return other


def test_ordinary_user_needs_no_system_directory(state_dir: Path) -> None:
    as_root = os.geteuid() == 0
    user = ProcessUser(OVERFLOW_UID, OVERFLOW_UID) if as_root else ProcessUser(os.geteuid(), os.getegid())
    home = state_dir / "home"
    home.mkdir(0o700)
    os.chown(home, user.uid, user.gid)
    script = (
        "import pathlib, psycopg\n"
        "from app.local.postgres import EmbeddedPostgres\n"
        f"state = pathlib.Path({str(home / 'state')!r})\n"
        "with EmbeddedPostgres(state) as postgres:\n"
        "    psycopg.connect(postgres.url.replace('+psycopg', '')).close()\n"
        "    print(postgres.data_dir)\n"
    )
    result = subprocess.run(
        [interpreter_for(user), "-c", script],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        user=user.uid if as_root else None,
        group=user.gid if as_root else None,
        extra_groups=[] if as_root else None,
    )
    assert result.stdout.strip() == str(home / "state" / "postgres" / "data"), result.stderr
    assert list(home.glob("state/postgres.location")) == []
