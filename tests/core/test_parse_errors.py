"""Errors of Python's parsers, in words of our own that are the same on every version of Python."""

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.core.parse_errors import json_place, json_problem, why_unreadable

COMMA = "a comma stands before the closing bracket; remove it"


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("[1, tru]", 5, "a value is missing or not JSON"),
        ("{'a': 1}", 2, "a key is missing or has no double quotes"),
        ('{"a": 1 "b": 2}', 9, "a comma or a closing bracket is missing"),
        ('{"a" 1}', 6, "the colon after the key is missing"),
        ('{"a": "b', 7, "the text that begins here has no closing quote"),
        ('{"a": "b\tc"}', 9, "escape it"),
        ('{"a": "\\q"}', 8, "write \\\\ for a backslash"),
        ('{"a": "\\u12"}', 9, "\\u needs four hexadecimal digits"),
        ("{} {}", 4, "more text follows after the end of the value"),
        ('{"a": 1,}', 8, COMMA),
        ('{"a": 1 , }', 9, COMMA),
        ("[1, 2,\t]", 6, COMMA),
        ("", 1, "a value is missing"),
    ],
)
def test_json_errors_have_place_and_cause(text: str, column: int, words: str) -> None:
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads(text)
    position, cause = json_problem(caught.value)
    assert position == column - 1
    assert words in cause
    assert json_place(caught.value) == (1, column, cause)


@pytest.mark.parametrize(("message", "position"), [("Expecting value", 6), ("Illegal trailing comma", 5)])
def test_trailing_comma_of_any_version(message: str, position: int) -> None:
    """3.13 names the comma, earlier versions miss a value at the bracket."""
    assert json_problem(json.JSONDecodeError(message, "[1, 2,]", position)) == (5, COMMA)


def test_unknown_message_has_a_place() -> None:
    assert json_place(json.JSONDecodeError("New in 3.99", "a\nbc", 3)) == (2, 2, "it is not JSON")


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (lambda: json.loads('{"a":\n 1,}'), f"it is not JSON: line 2, column 3: {COMMA}"),
        (lambda: b"a\xff".decode(), "it has the byte 0xff, which is not utf-8"),
        (lambda: gzip.decompress(gzip.compress(b"abc")[:-9]), "it ends too early"),
        (lambda: gzip.decompress(gzip.compress(b"abc")[:-8] + bytes(8)), "its content is damaged"),
        (lambda: zlib.decompress(b"no"), "its content is damaged"),
        (lambda: Path("/nowhere").read_bytes(), "No such file or directory"),
        (lambda: dict[str, int]()["weight_map"], "'weight_map' is missing"),
    ],
)
def test_unreadable_files_have_a_reason(read: Callable[[], Any], reason: str) -> None:
    with pytest.raises((ValueError, OSError, EOFError, KeyError, zlib.error)) as caught:
        read()
    assert why_unreadable(caught.value) == reason
