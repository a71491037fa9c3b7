"""Scratch directories of living, ended and killed processes."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from app.core.scratch import YOUNG_SECONDS, scratch_directory

HOLD = """
import sys
from app.core.scratch import scratch_directory

with scratch_directory("test") as directory:
    (directory / "copy").write_text("rows")
    print(directory, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary directory, for this process and its children."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)  # the library's cache of TMPDIR
    return tmp_path


def age(directory: Path) -> None:
    """Make a directory as old as one whose process has had the time to lock it."""
    then = directory.stat().st_mtime - YOUNG_SECONDS - 1
    os.utime(directory, (then, then))


def test_directory_is_removed_at_its_end(temporary: Path) -> None:
    with scratch_directory("test") as directory:
        (directory / "copy").write_text("rows")
        assert list(temporary.iterdir()) == [directory]
    assert list(temporary.iterdir()) == []


def test_directory_of_a_killed_process_is_removed(temporary: Path) -> None:
    """A directory in use, a young one and directories of others stay."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        held = Path(process.stdout.readline().strip())
        socket_directory = temporary / "grouptune-0-0123456789ab"
        socket_directory.mkdir()
        for directory in (held, socket_directory):
            age(directory)
        with scratch_directory("test"):
            assert (held / "copy").read_text() == "rows"
        process.send_signal(signal.SIGKILL)
    with scratch_directory("test"):
        assert not held.exists()
        young = temporary / "grouptune-scratch-new"
        young.mkdir()
    with scratch_directory("test"):
        assert young.exists()
    assert socket_directory.exists()
