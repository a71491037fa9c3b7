"""Validates the items of an eval against its schema. Patterns can backtrack forever, and references can form cycles."""

from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from referencing import Registry

MAX_SHOWN = 200


def check(schema: dict[str, Any], items: list[dict[str, Any]]) -> dict[str, Any]:
    """Return (index, path, problem) of the first item that does not match; None if all match."""
    # An empty registry: with the default one, a reference to another document would be downloaded.
    validator = Draft202012Validator(schema, registry=Registry())
    for index, item in enumerate(items):
        error = best_match(validator.iter_errors(item))
        if error is not None:
            return {"value": [index, error.json_path.removeprefix("$"), error.message[:MAX_SHOWN]]}
    return {"value": None}
