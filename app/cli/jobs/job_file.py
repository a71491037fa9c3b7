"""Reads `job.yaml`: the body of `POST /v1/fine_tuning/jobs`, in which files may be local paths."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import yaml

from app.core.errors import InvalidRequest

FILE_FIELDS: Final = ("training_file", "validation_file")
_ID_PREFIX: Final = "file-"
_REQUIRED_FIELDS: Final = {
    "job": "`model`, `training_file` and `method`",
    "grader": "`type` and the fields of that type",
    "grader, or job with one": "`type` and the fields of that type, or with `method`",
}


def read(path: Path, what: str = "job") -> dict[str, Any]:
    """Read a job or grader from a YAML or JSON file. Raises `InvalidRequest` with the line of a syntax error."""
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))  # every JSON document is YAML
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InvalidRequest(f"{path}: {place}{error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} is not valid YAML: {error}") from error
    if not isinstance(body, dict):
        raise InvalidRequest(f"{path} must contain one {what}: an object with {_REQUIRED_FIELDS[what]}.")
    return body


def with_gates(body: dict[str, Any], gates: list[str]) -> dict[str, Any]:
    """Return the body with these gates appended to its own."""
    existing = body.get("gates") or []
    return body | {"gates": [*existing, *gates]} if gates and isinstance(existing, list) else body


def with_files(body: dict[str, Any], **files: str | None) -> dict[str, Any]:
    """Return the body with its files replaced by `files`: ids, or paths relative to the current directory."""
    given = {name: value for name, value in files.items() if value is not None}
    return body | {
        name: value if value.startswith(_ID_PREFIX) and not Path(value).is_file() else str(Path(value).absolute())
        for name, value in given.items()
    }


def with_uploads(body: dict[str, Any], directory: Path, upload: Callable[[Path], str]) -> dict[str, Any]:
    """Return the body with every path, relative to `directory`, replaced by the id that `upload` returns.

    Raises `InvalidRequest`, before anything is uploaded, if a field is neither a file id nor an existing path.
    """
    paths: dict[str, Path] = {}
    for name in FILE_FIELDS:
        value = body.get(name)
        if not isinstance(value, str):
            continue
        candidate = directory / Path(value).expanduser()
        if candidate.is_file():
            paths[name] = candidate
        elif not value.startswith(_ID_PREFIX):
            raise InvalidRequest(
                f"The file {candidate} does not exist. Give an existing path or the id of an uploaded file.", param=name
            )
    ids = {path: upload(path) for path in dict.fromkeys(paths.values())}
    return body | {name: ids[path] for name, path in paths.items()}
