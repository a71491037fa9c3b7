"""Words the errors of Python's parsers and decoders: their own texts differ between versions of Python."""

import json
from collections.abc import Mapping
from typing import Final

_JSON: Final[Mapping[str, str]] = {
    "Expecting value": "a value is missing or not JSON (texts need double quotes; true, false and null are lower case)",
    "Expecting property name": "a key is missing or has no double quotes",
    "Expecting ',' delimiter": "a comma or a closing bracket is missing",
    "Expecting ':' delimiter": "the colon after the key is missing",
    "Unterminated string": "the text that begins here has no closing quote",
    "Invalid control character": "a text contains a line break, a tab or the like; escape it, such as \\n",
    "Invalid \\escape": "a backslash stands before a character that needs none; write \\\\ for a backslash",
    "Invalid \\uXXXX escape": "\\u needs four hexadecimal digits",
    "Extra data": "more text follows after the end of the value",
}
"""Beginning of the text of `JSONDecodeError` -> ours."""
_TRAILING_COMMA: Final = "a comma stands before the closing bracket; remove it"


def json_problem(error: json.JSONDecodeError) -> tuple[int, str]:
    """Return the position of an error in its text, counted from 0, and what is wrong there."""
    text, position = error.doc, error.pos
    # Until 3.12 Python points to the bracket and misses a value, later to the comma before it.
    before = text[:position].rstrip()
    if text[position : position + 1] in ("}", "]") and before.endswith(","):
        return len(before) - 1, _TRAILING_COMMA
    if text[position : position + 1] == "," and text[position + 1 :].lstrip()[:1] in ("}", "]"):
        return position, _TRAILING_COMMA
    return position, next((words for begin, words in _JSON.items() if error.msg.startswith(begin)), "it is not JSON")


def json_place(error: json.JSONDecodeError) -> tuple[int, int, str]:
    """Return line and column of an error, counted from 1, and what is wrong there."""
    position, words = json_problem(error)
    return error.doc.count("\n", 0, position) + 1, position - error.doc.rfind("\n", 0, position), words


def why_not_json(error: BaseException | None) -> str | None:
    """Return why a text could not be parsed as JSON, for the errors that are no `JSONDecodeError`; None for others."""
    match error:
        case UnicodeDecodeError():
            return why_unreadable(error)
        case RecursionError():
            return "it is nested too deeply"
        case ValueError():
            return "it has a number of too many digits"
        case _:
            return None


def why_unreadable(error: Exception) -> str:
    """Return why the content of a file could not be read, for errors that a parser or a decompressor raises."""
    match error:
        case json.JSONDecodeError():
            line, column, words = json_place(error)
            return f"it is not JSON: line {line}, column {column}: {words}"
        case UnicodeDecodeError():
            return f"it has the byte 0x{error.object[error.start]:02x}, which is not {error.encoding}"
        case OSError(strerror=str(reason)):
            return reason
        case EOFError():
            return "it ends too early"
        case KeyError():
            return f"{error} is missing"
        case _:
            return "its content is damaged"
