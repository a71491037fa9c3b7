"""State directories for the embedded stack, and checks that processes have ended."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.local.placement import POINTER_NAME, make_state_dir, postgres_home, socket_directory
from app.local.postgres import EmbeddedPostgres
from tests.waiting import all_end

ALL_GONE_SECONDS = 60.0


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """A short path that every user can enter. Files that the engines put elsewhere are removed as well."""
    parent = Path(tempfile.mkdtemp(prefix="gt-"))
    parent.chmod(0o711)
    yield from _state_below(parent)


@pytest.fixture(scope="session")
def used_state_dir() -> Iterator[Path]:
    """A state directory with a database, for tests that leave it intact: initdb takes a second or more."""
    parent = Path(tempfile.mkdtemp(prefix="gt-"))
    parent.chmod(0o711)
    for state in _state_below(parent):
        EmbeddedPostgres(state).spec()
        yield state


@pytest.fixture
def closed_state_dir() -> Iterator[Path]:
    """A state directory below a directory of mode 0700, as in a clone under /root."""
    yield from _state_below(Path(tempfile.mkdtemp(prefix="gt-")))


def _state_below(parent: Path) -> Iterator[Path]:
    state = parent / "state"
    make_state_dir(state)
    yield state
    if (state / "postgres.location").exists() or (state / "postgres").exists():
        remove_postgres_data(state)
    shutil.rmtree(parent)


def remove_postgres_data(state: Path) -> None:
    """Delete the files of a stopped Postgres, including those outside the state directory."""
    make_state_dir(state)
    home = postgres_home(state)
    shutil.rmtree(socket_directory(home.directory / "run", home.user))
    shutil.rmtree(home.directory)
    (state / POINTER_NAME).unlink(missing_ok=True)


def engine_uid(state: Path) -> int:
    """Return the uid that Postgres must run as."""
    user = postgres_home(state).user
    return os.geteuid() if user is None else user.uid


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all its descendants."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def assert_all_end(processes: list[psutil.Process]) -> None:
    """Wait until every process has ended."""
    assert all_end(processes, ALL_GONE_SECONDS), [process for process in processes if process.is_running()]
