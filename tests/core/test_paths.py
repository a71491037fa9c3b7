"""A path that cannot be read is not reported as missing."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from app.core import paths
from app.core.storage.local import LocalBlobStore

UNREADABLE = "x" * 300
"""No file system has names this long, so looking one up fails, also for root."""
TOO_LONG = os.strerror(errno.ENAMETOOLONG)


@pytest.mark.parametrize("check", [paths.exists, paths.is_file, paths.is_directory])
def test_unreadable_path_raises(check: Callable[[Path], bool], tmp_path: Path) -> None:
    with pytest.raises(OSError, match=TOO_LONG):
        check(tmp_path / UNREADABLE)


def test_kinds_of_paths(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    checks = (paths.exists, paths.is_file, paths.is_directory)
    assert [check(file) for check in checks] == [True, True, False]
    assert [check(tmp_path) for check in checks] == [True, False, True]
    for missing in (tmp_path / "missing", file / "below a file"):
        assert [check(missing) for check in checks] == [False, False, False]


def test_unreadable_blob_is_not_missing(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    with pytest.raises(OSError, match=TOO_LONG), store.as_file(UNREADABLE, lambda: None):
        pass
    with pytest.raises(OSError, match=TOO_LONG):
        store.exists(UNREADABLE)
