"""Extracts JSON that a model wrapped in thoughts, prose or a Markdown code block."""

import ast
import json
import re
from collections.abc import Collection, Iterator
from typing import Any, Final

_MAX_STARTS: Final = 200
"""Most braces at which an object is looked for, so that hostile text costs little."""
_SINGLE_QUOTED: Final = re.compile(r"\{\s*'[^{}]*\}")


def unfenced(text: str) -> str:
    """Return the content of a ``` code block, if the whole text is one."""
    text = text.strip()
    if not (text.startswith("```") and text.endswith("```") and "\n" in text):
        return text
    return text[text.index("\n") + 1 : -3]


def without_thoughts(text: str) -> str:
    """Return what follows the thoughts of a reasoning model; nothing if the thoughts do not end."""
    return text.rpartition("</think>")[2].partition("<think>")[0].strip()


def last_object(text: str, keys: Collection[str]) -> dict[str, Any] | None:
    """Return the last JSON object in a text that has one of the keys; None if there is none.

    An object inside another counts as part of it. Objects in Python's notation, with single quotes, are read too.
    """
    found = None
    for value in _objects(text):
        if any(key in value for key in keys):
            found = value
    return found


def _objects(text: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    position = 0
    for _ in range(_MAX_STARTS):
        start = text.find("{", position)
        if start < 0:
            return
        try:
            value, position = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            value, position = _single_quoted(text, start)
        if isinstance(value, dict):
            yield value


def _single_quoted(text: str, start: int) -> tuple[Any, int]:
    match = _SINGLE_QUOTED.match(text, start)
    if match is None:
        return None, start + 1
    try:
        return ast.literal_eval(match[0]), match.end()
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None, start + 1
