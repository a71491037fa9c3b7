"""The embedded Postgres of an installation, for commands that need only the database."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.core.paths import exists, is_directory
from app.local.engine import ReportProgress
from app.local.errors import AlreadyRunning
from app.local.lock import StateLock
from app.local.placement import POINTER_NAME, make_state_dir
from app.local.postgres import EmbeddedPostgres


def has_database(state_dir: Path) -> bool:
    """Whether `state_dir` has an embedded Postgres, running or not."""
    return is_directory(state_dir / "postgres") or exists(state_dir / POINTER_NAME)


@contextmanager
def embedded_url(state_dir: Path, progress: ReportProgress, *, alone: bool = False) -> Iterator[str]:
    """Yield the URL of the embedded Postgres of `state_dir`, which is started for the block unless it runs already.

    While this process runs it, the lock keeps others from starting the installation. Raises `LocalStackError`; with
    `alone`, raises `AlreadyRunning` if the installation is running.
    """
    make_state_dir(state_dir)
    lock = StateLock(state_dir)
    postgres = EmbeddedPostgres(state_dir, progress=progress)
    try:
        lock.acquire()
    except AlreadyRunning:
        if alone:
            raise
        yield postgres.find_running()
        return
    try:
        with postgres:
            yield postgres.url
    finally:
        lock.release()
