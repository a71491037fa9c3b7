"""Whether paths exist, with the same answers on every version of Python.

From Python 3.14 on, `Path.exists`, `is_file` and `is_dir` return False for a path that cannot be read: no permission, a
disk with errors, a network file system that has gone. Its data are not lost, so these functions raise `OSError`.
"""

import stat
from pathlib import Path


def exists(path: Path) -> bool:
    """Whether the path exists. Raises `OSError` if that cannot be determined."""
    return _mode(path) is not None


def is_file(path: Path) -> bool:
    """Whether the path is a file. Raises `OSError` if that cannot be determined."""
    mode = _mode(path)
    return mode is not None and stat.S_ISREG(mode)


def is_directory(path: Path) -> bool:
    """Whether the path is a directory. Raises `OSError` if that cannot be determined."""
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
