"""GitHub workflow commands: step outputs, the step summary, and annotations on rows of files."""

import os
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from app.client import Json

MAX_ANNOTATIONS: Final = 10
"""GitHub shows at most this many errors, and as many warnings, per step."""


def is_active() -> bool:
    """Whether this process runs in a step of a GitHub workflow."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def set_outputs(**values: str) -> None:
    """Set outputs of the step; `_` in a name becomes `-`. Does nothing outside a workflow."""
    for name, value in values.items():
        # A random delimiter: a value that contained it could end itself and start another output.
        delimiter = secrets.token_hex(16)
        _append("GITHUB_OUTPUT", f"{name.replace('_', '-')}<<{delimiter}\n{value}\n{delimiter}\n")


def add_summary(markdown: str) -> None:
    """Append to the summary of the step. Does nothing outside a workflow."""
    _append("GITHUB_STEP_SUMMARY", markdown + "\n")


def annotate(path: Path, errors: Iterable[Json], warnings: Iterable[Json]) -> None:
    """Annotate rows of a file; each error and warning has `line`, `param` and `message`."""
    file = _property(_in_workspace(path))
    for level, findings in (("error", errors), ("warning", warnings)):
        for finding in list(findings)[:MAX_ANNOTATIONS]:
            field = f" ({finding['param']})" if finding.get("param") else ""
            line = f",line={finding['line']}" if finding["line"] else ""
            # GitHub reads commands from both streams; ours keeps standard output for results.
            sys.stderr.write(f"::{level} file={file}{line}::{_data(str(finding['message']) + field)}\n")
    sys.stderr.flush()


def annotate_step(title: str, message: str) -> None:
    """Add an error that belongs to the step, not to a file. Does nothing outside a workflow."""
    if is_active():
        sys.stderr.write(f"::error title={_property(title)}::{_data(message)}\n")
        sys.stderr.flush()


def hide(secret: str) -> None:
    """Mask a secret in all later log lines of the workflow. Does nothing outside a workflow."""
    if is_active():
        sys.stderr.write(f"::add-mask::{_data(secret)}\n")
        sys.stderr.flush()


def _append(variable: str, text: str) -> None:
    if is_active() and (path := os.environ.get(variable)):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)


def _in_workspace(path: Path) -> str:
    """The path relative to the repository, as annotations need it; unchanged if it lies elsewhere."""
    workspace = os.environ.get("GITHUB_WORKSPACE")
    absolute = path.resolve()
    if workspace and absolute.is_relative_to(Path(workspace).resolve()):
        return str(absolute.relative_to(Path(workspace).resolve()))
    return str(path)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
