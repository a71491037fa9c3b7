"""JSON against a schema. Patterns in the schema backtrack for ever on the wrong text, references can go in circles."""

import json
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry

from app.core.graders.code_blocks import unfenced


def check(schema: dict[str, Any], text: str) -> dict[str, Any]:
    """Whether the text is JSON that fits the schema; fenced code counts as what is in the fence."""
    try:
        value = json.loads(unfenced(text))
    except (ValueError, RecursionError):
        return {"value": False}
    # An empty registry: without one, a reference to another document would be fetched.
    return {"value": Draft202012Validator(schema, registry=Registry()).is_valid(value)}
