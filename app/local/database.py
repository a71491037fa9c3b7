"""The embedded Postgres of an installation, for commands that need nothing else of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.local.lock import AlreadyRunning, StateLock
from app.local.placement import POINTER_NAME, make_state_dir
from app.local.postgres import EmbeddedPostgres, Progress


def has_database(state_dir: Path) -> bool:
    """Whether an embedded Postgres was ever started there."""
    return (state_dir / "postgres").is_dir() or (state_dir / POINTER_NAME).exists()


@contextmanager
def embedded_url(state_dir: Path, progress: Progress, *, alone: bool = False) -> Iterator[str]:
    """URL of the embedded Postgres of `state_dir`, which is started for the block if it does not run.

    Nobody else starts the installation meanwhile. Raises `LocalStackError`, and for `alone` also `AlreadyRunning`
    when it runs.
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
