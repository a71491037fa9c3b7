"""Reads `job.yaml`: the body of `POST /v1/fine_tuning/jobs`, in which files may be local paths."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml

from app.core.errors import InvalidRequest

FILE_FIELDS: Final = ("training_file", "validation_file", "test_file")
_ID_PREFIX: Final = "file-"
_DATA_SUFFIXES: Final = (".jsonl", ".parquet", ".csv", ".tsv")
_TOP_LEVEL: Final = (
    *("model", "training_file", "validation_file", "test_file", "suffix", "seed", "metadata", "integrations"),
    *("chat_template_kwargs", "gates", "control", "alias", "priority", "resources", "method"),
)
"""Fields of a job; all other fields belong to its method."""
_REQUIRED_FIELDS: Final = {
    "job": "`model`, `training_file` and `method`",
    "grader": "`type` and the fields of that type",
    "eval": "`data_source_config` and `testing_criteria`",
    "grader, or job with one": "`type` and the fields of that type, or with `method`",
}


def read(path: Path, what: str = "job") -> dict[str, Any]:
    """Read a job or grader from a YAML or JSON file. Raises `InvalidRequest` with the line of a syntax error."""
    if path.suffix in _DATA_SUFFIXES:
        raise InvalidRequest(f"{path} is a data file, not a {what}. Name it with --training-file.")
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


def parse_grader(text: str) -> dict[str, Any]:
    """Return the grader in `text`: JSON, or the path of a JSON or YAML file. Raises `InvalidRequest`."""
    if not text.lstrip().startswith("{"):
        return read(Path(text), "grader") if Path(text).is_file() else _no_grader(text)
    try:
        grader: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"--grader is not valid JSON: {error}", param="grader") from error
    return grader


def _no_grader(path: str) -> NoReturn:
    raise InvalidRequest(f"The file {path} does not exist. Give a grader as JSON, or the path of one.", param="grader")


def with_method(body: dict[str, Any], kind: str | None, grader: dict[str, Any] | None) -> dict[str, Any]:
    """Return the body with another method or grader. A grader without a method makes a gft job."""
    method = body.get("method")
    method = method if isinstance(method, dict) else {}
    chosen = kind or method.get("type") or ("gft" if grader is not None else None)
    if chosen is None:
        return body
    if chosen != method.get("type"):
        method = {"type": chosen}
    if grader is not None:
        settings = method.get(chosen)
        method = method | {chosen: (settings if isinstance(settings, dict) else {}) | {"grader": grader}}
    return body | {"method": method}


def with_settings(body: dict[str, Any], pairs: list[str]) -> dict[str, Any]:
    """Return a copy of the body with fields set, each as `PATH=VALUE` with a value in YAML.

    A path that begins with no field of a job is one of the method: `hyperparameters.batch_size`. Raises
    `InvalidRequest`.
    """
    changed = deepcopy(body)
    for pair in pairs:
        steps, value = parse_setting(pair, "hyperparameters.batch_size=8")
        if steps[0] not in _TOP_LEVEL:
            kind = str((changed.get("method") or {}).get("type") or "supervised")
            changed.setdefault("method", {"type": kind})
            steps = ["method", kind, *steps]
        place = changed
        for step in steps[:-1]:
            if not isinstance(place.get(step), dict):
                place[step] = {}
            place = place[step]
        place[steps[-1]] = value
    return changed


def parse_setting(pair: str, example: str) -> tuple[list[str], Any]:
    """Return the steps of the path and the value of `PATH=VALUE`, a value in YAML. Raises `InvalidRequest`."""
    path, equals, text = pair.partition("=")
    steps = path.strip().split(".")
    if not equals or not all(steps):
        raise InvalidRequest(f"{pair!r} is not a setting. Write PATH=VALUE, such as {example}.")
    try:
        return steps, yaml.safe_load(text)
    except yaml.YAMLError:
        return steps, text


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


def local_files(body: dict[str, Any], directory: Path) -> dict[str, Path]:
    """Return the fields of the body that name local files, with the paths; relative ones start at `directory`.

    Raises `InvalidRequest` if a field is neither a file id nor an existing path.
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
    return paths
