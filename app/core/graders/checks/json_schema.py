"""Validates JSON against a schema. Patterns can backtrack forever, and references can form cycles."""

import json
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry

from app.core.graders.code_blocks import unfenced


def check(schema: dict[str, Any], text: str) -> dict[str, Any]:
    """Return whether the text is JSON that matches the schema; a code block counts as its content."""
    try:
        value = json.loads(unfenced(text))
    except (ValueError, RecursionError):
        return {"value": False}
    # An empty registry: with the default one, a reference to another document would be downloaded.
    return {"value": Draft202012Validator(schema, registry=Registry()).is_valid(value)}
