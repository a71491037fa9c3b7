"""The embedded Postgres: creates the database cluster once, then runs a server that ends with its parent.

The server listens on a unix socket only, without a password: the mode of the socket directory (0700) decides who may
connect.
"""

import contextlib
import os
import select
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from app.core.paths import exists
from app.local.engine import EmbeddedEngine, ReportProgress, report_nothing
from app.local.errors import LocalStackError
from app.local.placement import PRIVATE_MODE, EngineHome, make_state_dir, postgres_home, socket_directory
from app.local.postgres_binaries import PostgresBinaries, available, choose
from app.local.process import Child, ChildSpec, RestartPolicy, log_tail

NAME = "grouptune"
"""Name of the superuser and of the database."""
PORT = 5432  # only a part of the socket's file name
READY_TIMEOUT_SECONDS = 120.0
READY_POLL_SECONDS = 0.05
PROGRESS_EVERY_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 10
INITDB_TIMEOUT_SECONDS = 300.0
OLD_SERVER_SECONDS = 15.0
STOP_GRACE_SECONDS = 30.0
RESTART = RestartPolicy(max_quick_failures=3)


class EmbeddedPostgres(EmbeddedEngine):
    """Postgres of one state directory."""

    def __init__(
        self,
        state_dir: Path,
        *,
        progress: ReportProgress = report_nothing,
        binaries: list[PostgresBinaries] | None = None,
    ) -> None:
        """`binaries`, best first, replaces the search on PATH and in the wheel."""
        super().__init__(state_dir)
        self._progress = progress
        self._binaries = binaries
        self._home: EngineHome | None = None

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the database; valid after `start` or `spec`."""
        return f"postgresql+psycopg://{NAME}@/{NAME}?host={quote(str(self._socket_dir), safe='/')}"

    @property
    def log_path(self) -> Path:
        return self._state_dir / "logs" / "postgres.log"

    @property
    def data_dir(self) -> Path:
        return self._prepared_home().directory / "data"

    def spec(self) -> ChildSpec:
        """Create the data directory if it is missing, and return how to run the server."""
        make_state_dir(self._state_dir)
        home = self._home = postgres_home(self._state_dir)
        candidates = available() if self._binaries is None else self._binaries
        binaries = choose(candidates, self._data_major(), home.user)
        if not exists(self.data_dir):
            self._create_cluster(binaries)
        self._socket_dir = socket_directory(home.directory / "run", home.user)
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._socket_dir),
            "unix_socket_permissions": "0700",
            "fsync": "on",
            "log_timezone": "UTC",
            "timezone": "UTC",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return ChildSpec(
            name="postgres",
            argv=(binaries.postgres, "-D", str(self.data_dir), "-p", str(PORT), *options),
            env=_environment(),
            log_path=self.log_path,
            user=home.user,
            stop_signal=signal.SIGINT,  # fast shutdown: rolls open transactions back and ends sessions
            stop_grace_seconds=STOP_GRACE_SECONDS,
            death_signal=signal.SIGQUIT,  # immediate shutdown; the next start replays the write-ahead log
            restart=RESTART,
            before_start=self._clear_stale_locks,
        )

    def find_running(self) -> str:
        """Return the URL of the server that another process runs for this state directory; does not connect to it."""
        home = self._home = postgres_home(self._state_dir)
        self._socket_dir = socket_directory(home.directory / "run", home.user)
        return self.url

    def wait_ready(self, pause: Callable[[float], None]) -> None:
        """Wait until the database accepts queries; creates it on the first start."""
        started = last_report = time.monotonic()
        while True:
            try:
                _ensure_database(self._socket_dir)
                return
            except psycopg.OperationalError as error:
                now = time.monotonic()
                if now - started > READY_TIMEOUT_SECONDS:
                    raise LocalStackError(
                        f"Postgres is not ready after {READY_TIMEOUT_SECONDS:g} s ({error}). "
                        f"The end of {self.log_path}:\n{log_tail(self.log_path)}"
                    ) from error
                if now - last_report > PROGRESS_EVERY_SECONDS:
                    last_report = now
                    self._progress(f"Waiting for Postgres ({now - started:.0f} s): {error}")
            pause(READY_POLL_SECONDS)

    def _prepared_home(self) -> EngineHome:
        if self._home is None:
            raise LocalStackError("call start() or spec() first")
        return self._home

    def _data_major(self) -> int | None:
        try:
            return int((self.data_dir / "PG_VERSION").read_text())
        except FileNotFoundError:
            return None

    def _create_cluster(self, binaries: PostgresBinaries) -> None:
        """Run initdb in a temporary directory and rename it: an interrupted initdb is never mistaken for a database."""
        home = self._prepared_home()
        draft = home.directory / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(PRIVATE_MODE)
        if home.user is not None:
            os.chown(draft, home.user.uid, home.user.gid)
        self._progress(f"Creating the database with Postgres {binaries.version}")
        options = ("--encoding=UTF8", "--locale=C", "--data-checksums", "--auth=trust", f"--username={NAME}")
        initdb = Child(
            ChildSpec(
                name="initdb",
                argv=(binaries.initdb, "-D", str(draft), *options),
                env=_environment(),
                log_path=self.log_path,
                user=home.user,
            )
        )
        try:
            if not initdb.wait(INITDB_TIMEOUT_SECONDS):
                raise LocalStackError(
                    f"initdb has not finished after {INITDB_TIMEOUT_SECONDS:g} s. Read {self.log_path}."
                )
        finally:
            status = initdb.stop(grace_seconds=0.0)
        if status != 0:
            raise LocalStackError(f"initdb failed. The end of {self.log_path}:\n{log_tail(self.log_path)}")
        draft.rename(self.data_dir)

    def _clear_stale_locks(self) -> None:
        """Wait for an old server that has just lost its supervisor, end what a killed server left behind, then remove
        the lock files that a crash left.

        Postgres itself trusts the process id in `postmaster.pid`. After a reboot, or in a container, that id may
        belong to another program, and Postgres would refuse to start.
        """
        pid_file = self.data_dir / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            self._await_old_server(int(pid_file.read_text().split()[0]))
        self._end_orphans()
        for lock in (pid_file, *self._socket_dir.glob(".s.PGSQL.*")):
            lock.unlink(missing_ok=True)

    def _end_orphans(self) -> None:
        """Kill the processes of a killed server: each finishes its query first, and so long no new server starts.

        Their uncommitted work is lost with their server anyway; the next start replays the write-ahead log.
        """
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(process.name)
                pidfd = os.pidfd_open(pid)
                try:
                    if self._works_here(pid):
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                        _await_end(pidfd, OLD_SERVER_SECONDS)
                finally:
                    os.close(pidfd)

    def _works_here(self, pid: int) -> bool:
        """Return whether a process works in the data directory, as those of Postgres do. Raises `OSError`."""
        return Path(f"/proc/{pid}/cwd").resolve(strict=True) == self.data_dir.resolve()

    def _await_old_server(self, pid: int) -> None:
        # A pidfd refers to one process for as long as it is open. A process id could be reused between the check of
        # the working directory and the signal.
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if not self._works_here(pid):
                return
            self._progress(f"Waiting for the previous Postgres (process {pid}) to end")
            signal.pidfd_send_signal(pidfd, signal.SIGINT)
            if not _await_end(pidfd, OLD_SERVER_SECONDS):
                raise LocalStackError(
                    f"Process {pid}, an old Postgres, uses {self.data_dir} and does not end. Stop it with `kill {pid}`."
                )
        except (FileNotFoundError, ProcessLookupError):
            return
        finally:
            os.close(pidfd)


def _await_end(pidfd: int, seconds: float) -> bool:
    """Wait until the process has ended; return whether it has."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)  # readable once the process has ended
    return bool(poller.poll(seconds * 1000))


def _environment() -> dict[str, str]:
    """Return our environment without the variables that change Postgres' defaults; log messages are in English."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_", "LANG"))}
    return kept | {"LC_ALL": "C"}


def _ensure_database(socket_dir: Path) -> None:
    with psycopg.connect(
        host=str(socket_dir),
        port=PORT,
        user=NAME,
        dbname="postgres",
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        autocommit=True,
    ) as connection:
        row = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [NAME]).fetchone()
        if row is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(NAME)))
