"""The common shape of JSON documents as a JSON schema, and a Python grader that compares documents."""

import json
from collections.abc import Sequence
from typing import Any, Final

from app.core.graders.code_blocks import unfenced

MAX_DEPTH: Final = 4
MAX_PROPERTIES: Final = 50
_TYPES: Final = {bool: "boolean", int: "integer", float: "number", str: "string", dict: "object", list: "array"}


def as_document(value: Any) -> Any:
    """Return the document that `value` is or, as a text or a Markdown code block, contains; None for other texts."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(unfenced(value))
    except (ValueError, RecursionError):
        return None


def schema_of(documents: Sequence[Any], depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Return a schema that all documents match: their types, and the properties that every object has."""
    names = {_TYPES.get(type(document), "null") for document in documents}
    if "number" in names:
        names.discard("integer")
    schema: dict[str, Any] = {"type": names.pop() if len(names) == 1 else sorted(names)}
    if not depth:
        return schema
    if schema["type"] == "object":
        shared = [name for name in documents[0] if all(name in document for document in documents)][:MAX_PROPERTIES]
        schema["required"] = shared
        schema["properties"] = {
            name: schema_of([document[name] for document in documents], depth - 1) for name in shared
        }
    if schema["type"] == "array" and (items := [item for document in documents for item in document]):
        schema["items"] = schema_of(items, depth - 1)
    return schema


def compare_source(reference: str) -> str:
    """Return a Python grader that pays the share of equal fields; `reference` is the code of the right document."""
    return f"""import json

def document(value):
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("```") and text.endswith("```") and "\\n" in text:
        text = text[text.index("\\n") + 1 : -3]
    try:
        return json.loads(text)
    except ValueError:
        return None

def grade(sample, item):
    right, answer = document({reference}), document(sample["output_text"])
    if answer == right:
        return 1.0
    if not isinstance(right, dict) or not isinstance(answer, dict):
        return 0.0
    fields = set(right) | set(answer)
    equal = [field for field in fields if field in right and field in answer and right[field] == answer[field]]
    return len(equal) / len(fields)
"""
