"""What a GitHub workflow shows of a command: outputs, the step's summary, and marks on rows of files."""

import os
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from app.client import Json

MOST_MARKS: Final = 10
"""GitHub shows no more errors, and no more warnings, of one step."""


def is_active() -> bool:
    """Whether this is a step of a GitHub workflow."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def set_outputs(**values: str) -> None:
    """Outputs of the step, `_` in their names written as `-`. Nothing outside of a workflow."""
    for name, value in values.items():
        mark = secrets.token_hex(16)  # a value cannot guess it, and so cannot end itself and begin another output
        _append("GITHUB_OUTPUT", f"{name.replace('_', '-')}<<{mark}\n{value}\n{mark}\n")


def add_summary(markdown: str) -> None:
    """Adds to the summary of the step. Nothing outside of a workflow."""
    _append("GITHUB_STEP_SUMMARY", markdown + "\n")


def annotate(path: Path, errors: Iterable[Json], warnings: Iterable[Json]) -> None:
    """Marks rows of the file; each complaint has `line`, `param` and `message`."""
    place = _property(_in_workspace(path))
    for level, found in (("error", errors), ("warning", warnings)):
        for one in list(found)[:MOST_MARKS]:
            where = f" ({one['param']})" if one.get("param") else ""
            line = f",line={one['line']}" if one["line"] else ""
            # GitHub reads commands from both streams; standard output is for results.
            sys.stderr.write(f"::{level} file={place}{line}::{_data(str(one['message']) + where)}\n")
    sys.stderr.flush()


def mark(title: str, message: str) -> None:
    """An error of the step that is of no file. Nothing outside of a workflow."""
    if is_active():
        sys.stderr.write(f"::error title={_property(title)}::{_data(message)}\n")
        sys.stderr.flush()


def hide(secret: str) -> None:
    """Has the runner replace the text in all that the workflow logs from now on. Nothing outside of a workflow."""
    if is_active():
        sys.stderr.write(f"::add-mask::{_data(secret)}\n")
        sys.stderr.flush()


def _append(variable: str, text: str) -> None:
    if is_active() and (path := os.environ.get(variable)):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)


def _in_workspace(path: Path) -> str:
    """Relative to the repository, as marks want it; as it is when it lies elsewhere."""
    workspace = os.environ.get("GITHUB_WORKSPACE")
    whole = path.resolve()
    if workspace and whole.is_relative_to(Path(workspace).resolve()):
        return str(whole.relative_to(Path(workspace).resolve()))
    return str(path)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
