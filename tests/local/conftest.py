"""State directories for the embedded stack, and how to wait for the end of processes."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.local.placement import make_state_dir, postgres_home
from app.local.postgres import EmbeddedPostgres
from tests.waiting import all_end

ALL_GONE_SECONDS = 10.0


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """A short path that every user may enter; what the engines put elsewhere is removed as well."""
    parent = Path(tempfile.mkdtemp(prefix="gt-"))
    parent.chmod(0o711)
    yield from _state_below(parent)


@pytest.fixture(scope="session")
def used_state_dir() -> Iterator[Path]:
    """One with a database in it, for tests that leave it in order: initdb takes a second or more."""
    parent = Path(tempfile.mkdtemp(prefix="gt-"))
    parent.chmod(0o711)
    for state in _state_below(parent):
        EmbeddedPostgres(state).spec()
        yield state


@pytest.fixture
def closed_state_dir() -> Iterator[Path]:
    """The same below a directory of mode 0700, as in a clone under /root."""
    yield from _state_below(Path(tempfile.mkdtemp(prefix="gt-")))


def _state_below(parent: Path) -> Iterator[Path]:
    state = parent / "state"
    make_state_dir(state)
    yield state
    if (state / "postgres.location").exists() or (state / "postgres").exists():
        EmbeddedPostgres(state).remove_data()
    shutil.rmtree(parent)


def engine_uid(state: Path) -> int:
    """The user that Postgres must run as."""
    identity = postgres_home(state).identity
    return os.geteuid() if identity is None else identity.uid


def family(pid: int) -> list[psutil.Process]:
    """A process with all its descendants."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def assert_all_end(processes: list[psutil.Process]) -> None:
    """Waits until each of them has ended."""
    assert all_end(processes, ALL_GONE_SECONDS), [process for process in processes if process.is_running()]
