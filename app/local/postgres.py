"""The embedded Postgres: initdb once, then a server on a unix socket that ends with its parent.

No TCP, no password: who can enter the socket directory (mode 0700) may connect, and nobody else.
"""

import contextlib
import os
import select
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from app.local.placement import PRIVATE_MODE, Home, make_state_dir, postgres_home, socket_directory
from app.local.postgres_binaries import Binaries, available, choose
from app.local.process import Child, ChildSpec, LocalStackError, RestartPolicy, log_tail

NAME = "grouptune"
"""Of the superuser and of the database."""
PORT = 5432  # only part of the socket's name
READY_TIMEOUT_SECONDS = 120.0
READY_POLL_SECONDS = 0.05
PROGRESS_EVERY_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 10
INITDB_TIMEOUT_SECONDS = 300.0
OLD_SERVER_SECONDS = 15.0
STOP_GRACE_SECONDS = 30.0
RESTART = RestartPolicy(max_quick_failures=3)

Progress = Callable[[str], None]


def _quiet(_message: str) -> None:
    """The default progress callback."""


class EmbeddedPostgres:
    """Postgres for one state directory.

    Either `start` and `stop` (or a `with` block) in a thread that stays alive, or give `spec()` to a
    `Supervisor` and then call `wait_ready`. The caller sees to it that one process at a time uses a state
    directory.
    """

    def __init__(self, state_dir: Path, *, progress: Progress = _quiet, binaries: list[Binaries] | None = None) -> None:
        """`binaries` replaces the search on PATH and in the wheel, best first."""
        self._state_dir = state_dir.absolute()
        self._progress = progress
        self._offers = binaries
        self._home: Home | None = None
        self._socket_dir = Path()
        self._child: Child | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the database; known after `start` or `spec`."""
        return f"postgresql+psycopg://{NAME}@/{NAME}?host={quote(str(self._socket_dir), safe='/')}"

    @property
    def pid(self) -> int:
        """Of the server that `start` has started."""
        if self._child is None:
            raise LocalStackError("call start() first")
        return self._child.pid

    @property
    def log_path(self) -> Path:
        return self._state_dir / "logs" / "postgres.log"

    @property
    def data_dir(self) -> Path:
        return self._prepared_home().directory / "data"

    def start(self) -> None:
        """Starts and waits until the database answers, else raises `LocalStackError` with the log's tail."""
        child = self._child = Child(self.spec())
        try:
            self.wait_ready(child.check)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Fast shutdown (open transactions roll back); harmless when not started."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def spec(self) -> ChildSpec:
        """Makes the data directory if there is none, and returns how to run the server."""
        make_state_dir(self._state_dir)
        home = self._home = postgres_home(self._state_dir)
        offers = available() if self._offers is None else self._offers
        binaries = choose(offers, self._data_major(), home.identity)
        if not self.data_dir.exists():
            self._create_cluster(binaries)
        self._socket_dir = socket_directory(home.directory / "run", home.identity)
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
            identity=home.identity,
            stop_signal=signal.SIGINT,
            stop_grace_seconds=STOP_GRACE_SECONDS,
            death_signal=signal.SIGQUIT,  # immediate and bounded; recovery replays the log at the next start
            restart=RESTART,
            before_start=self._clear_stale_locks,
        )

    def find_running(self) -> str:
        """URL of the server that another process runs for this state directory, without a look whether it answers."""
        home = self._home = postgres_home(self._state_dir)
        self._socket_dir = socket_directory(home.directory / "run", home.identity)
        return self.url

    def wait_ready(self, pause: Callable[[float], None]) -> None:
        """Returns when the database accepts queries, creating it on the first start.

        `pause(seconds)` waits, and raises when the server has ended: `Child.check` or `Supervisor.wait`.
        """
        begun = told = time.monotonic()
        while True:
            try:
                _ensure_database(self._socket_dir)
                return
            except psycopg.OperationalError as error:
                now = time.monotonic()
                if now - begun > READY_TIMEOUT_SECONDS:
                    raise LocalStackError(
                        f"Postgres is not ready after {READY_TIMEOUT_SECONDS:g} s ({error}). "
                        f"The end of {self.log_path}:\n{log_tail(self.log_path)}"
                    ) from error
                if now - told > PROGRESS_EVERY_SECONDS:
                    told = now
                    self._progress(f"Waiting for Postgres ({now - begun:.0f} s): {error}")
            pause(READY_POLL_SECONDS)

    def remove_data(self) -> None:
        """Deletes the database and all that belongs to it. Only while it is stopped."""
        make_state_dir(self._state_dir)
        home = postgres_home(self._state_dir)
        shutil.rmtree(socket_directory(home.directory / "run", home.identity))
        shutil.rmtree(home.directory)
        (self._state_dir / "postgres.location").unlink(missing_ok=True)

    def _prepared_home(self) -> Home:
        if self._home is None:
            raise LocalStackError("call start() or spec() first")
        return self._home

    def _data_major(self) -> int | None:
        try:
            return int((self.data_dir / "PG_VERSION").read_text())
        except FileNotFoundError:
            return None

    def _create_cluster(self, binaries: Binaries) -> None:
        """initdb beside the final place, then rename: an interrupted one is never taken for a database."""
        home = self._prepared_home()
        draft = home.directory / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(PRIVATE_MODE)
        if home.identity is not None:
            os.chown(draft, home.identity.uid, home.identity.gid)
        self._progress(f"Creating the database with Postgres {binaries.version}")
        options = ("--encoding=UTF8", "--locale=C", "--data-checksums", "--auth=trust", f"--username={NAME}")
        initdb = Child(
            ChildSpec(
                name="initdb",
                argv=(binaries.initdb, "-D", str(draft), *options),
                env=_environment(),
                log_path=self.log_path,
                identity=home.identity,
            )
        )
        try:
            if not initdb.wait(INITDB_TIMEOUT_SECONDS):
                raise LocalStackError(f"initdb takes over {INITDB_TIMEOUT_SECONDS:g} s; see {self.log_path}")
        finally:
            status = initdb.stop(grace_seconds=0.0)
        if status != 0:
            raise LocalStackError(f"initdb failed. The end of {self.log_path}:\n{log_tail(self.log_path)}")
        draft.rename(self.data_dir)

    def _clear_stale_locks(self) -> None:
        """Waits for a server that lost its supervisor just now to end, then removes what a crash left.

        Postgres itself trusts the process id in `postmaster.pid`, which after a reboot, or in a container,
        may by now be another program's.
        """
        pid_file = self.data_dir / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            self._await_old_server(int(pid_file.read_text().split()[0]))
        for lock in (pid_file, *self._socket_dir.glob(".s.PGSQL.*")):
            lock.unlink(missing_ok=True)

    def _await_old_server(self, pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if Path(f"/proc/{pid}/cwd").resolve() != self.data_dir.resolve():
                return
            self._progress(f"Waiting for the previous Postgres (process {pid}) to end")
            signal.pidfd_send_signal(pidfd, signal.SIGINT)
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            if not poller.poll(OLD_SERVER_SECONDS * 1000):
                raise LocalStackError(f"process {pid}, an old Postgres, holds {self.data_dir} and does not end")
        except (FileNotFoundError, ProcessLookupError):
            return
        finally:
            os.close(pidfd)


def _environment() -> dict[str, str]:
    """Ours, less what would change Postgres' defaults; messages in English for the log."""
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
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [NAME]).fetchone()
        if known is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(NAME)))
