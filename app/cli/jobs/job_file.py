"""Reads `job.yaml`: the body of `POST /v1/fine_tuning/jobs`, whose files may be paths on this machine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import yaml

from app.core.errors import InvalidRequest

FILE_FIELDS: Final = ("training_file", "validation_file")
_ID_PREFIX: Final = "file-"


NEEDS: Final = {
    "job": "`model`, `training_file` and `method`",
    "grader": "`type` and what that type needs",
    "grader, or job with one": "`type` and what that type needs, or with `method`",
}


def read(path: Path, what: str = "job") -> dict[str, Any]:
    """The job or grader in a YAML or JSON file. Raises `InvalidRequest` saying which line is wrong."""
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InvalidRequest(f"{path}: {place}{error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} is not YAML: {error}") from error
    if not isinstance(body, dict):
        raise InvalidRequest(f"{path} must hold one {what}: an object with {NEEDS[what]}.")
    return body


def with_gates(body: dict[str, Any], gates: list[str]) -> dict[str, Any]:
    """The body with these gates behind its own."""
    own = body.get("gates") or []
    return body | {"gates": [*own, *gates]} if gates and isinstance(own, list) else body


def with_files(body: dict[str, Any], **files: str | None) -> dict[str, Any]:
    """The body with these files in place of its own: ids, or paths relative to the current directory."""
    given = {name: value for name, value in files.items() if value is not None}
    return body | {
        name: value if value.startswith(_ID_PREFIX) and not Path(value).is_file() else str(Path(value).absolute())
        for name, value in given.items()
    }


def with_uploads(body: dict[str, Any], directory: Path, upload: Callable[[Path], str]) -> dict[str, Any]:
    """The body with every path replaced by the id that `upload` returns; paths are relative to `directory`.

    Raises `InvalidRequest` when a field is neither the id of a file nor an existing path; uploads nothing then.
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
                f"There is no file {candidate}; give a path or the id of an uploaded file.", param=name
            )
    ids = {path: upload(path) for path in dict.fromkeys(paths.values())}
    return body | {name: ids[path] for name, path in paths.items()}
