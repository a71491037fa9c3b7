"""Recognises files that are not JSONL (archives, other encodings, CSV, JSON arrays, ...) and says how to convert them.

Only the start of a file is read, except to find out its encoding.
"""

import ast
import csv
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from io import StringIO
from math import inf
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from app.core.files.archives import HEAD_BYTES, UNPACK_ERRORS, Unconvertible, binary_kind, unpacked
from app.core.files.encodings import MIXED, UTF8, Encoding, encoding_of, wide_encoding
from app.core.files.shapes import CONVERT, named
from app.core.parse_errors import why_unreadable
from app.core.spec.json_lines import MAX_LINE_BYTES

_DELIMITERS: Final = {",": "CSV", "\t": "TSV", ";": "CSV with semicolons", "|": "CSV with vertical bars"}
SCANNED_BYTES: Final = 1 << 26
"""Limit of what is unpacked to find out the encoding, since a small archive may hold terabytes."""
_CSV_LINES: Final = 20
_ROW_LISTS: Final = "data|rows|examples|train|items|records|dataset|samples"
WRAPPER: Final = re.compile(rf'\s*\{{\s*"({_ROW_LISTS})"\s*:\s*\[\s*(?=\{{)')
"""The start of an object with the rows in a list."""
_PYTHON: Final = re.compile(r"\[?\s*\{\s*(?:'|u')")
_COLUMNS: Final = re.compile(r'\s*\{\s*"[^"]+"\s*:\s*\{\s*"0"\s*:')
_YAML: Final = re.compile(r"\A(?:---\n|- *\w+:|\w+:\s*\n\s*- )")

csv.field_size_limit(MAX_LINE_BYTES)


class Syntax(StrEnum):
    """How rows are written in a text."""

    jsonl = "JSONL"
    array = "a JSON array"
    objects = "indented JSON"
    listed = "several JSON objects a line, or commas between them"
    wrapped = "a JSON object with the rows in a list"
    python = "Python literals (single-quoted, or with None, True, False)"
    table = "CSV"


@dataclass(frozen=True)
class Format:
    """The format of a file."""

    archive: str | None = None
    encoding: Encoding = UTF8
    syntax: Syntax = Syntax.jsonl
    delimiter: str = ","
    columns: tuple[str, ...] = ()
    """Of a table."""

    @property
    def problem(self) -> str | None:
        """What the file is in place of JSONL in UTF-8; None if it is that."""
        parts = [self.archive] if self.archive else []
        if self.syntax is not Syntax.jsonl:
            parts.append(_describe(self))
        if self.encoding.is_utf8:
            return f"the file is {', '.join(parts)}, not JSONL" if parts else None
        if not parts:
            return f"the file is text in {self.encoding.name}, not in UTF-8"
        return f"the file is {', '.join(parts)}, in {self.encoding.name}, not JSONL in UTF-8"


def _describe(found: Format) -> str:
    if found.syntax is not Syntax.table:
        return str(found.syntax)
    return f"{_DELIMITERS[found.delimiter]} with the columns {named(found.columns)}"


class Problem(NamedTuple):
    """What is wrong with a file as a whole."""

    message: str
    """With the fix."""
    is_convertible: bool
    """Whether `convert` can fix it."""


def problem_of(path: Path) -> Problem | None:
    """Return what is wrong with the file as a whole.

    Returns None for JSONL, and for a text whose format is unknown.
    """
    try:
        found = recognise(path)
    except Unconvertible as error:
        return Problem(str(error), False)
    problem = found.problem
    if problem is None or found.encoding == MIXED:  # single lines of another encoding are errors of these lines
        return None
    if found.encoding.codec is None:
        fix = "save it as UTF-8, or name its encoding: `grouptune files convert FILE --encoding NAME`"
        return Problem(f"{problem}; {fix}", False)
    return Problem(f"{problem}; convert it: {CONVERT}", True)


def is_wide_or_binary(stream: BinaryIO) -> bool:
    """Return whether the file is binary, or text in UTF-16 or UTF-32: no line of it can be read."""
    if binary_kind(stream) is not None:
        return True
    head = stream.read(64)
    stream.seek(0)
    return wide_encoding(head) is not None


def recognise(path: Path, codec: str | None = None) -> Format:
    """Return the format of a file, whose text has the encoding `codec` if given.

    Raises `Unconvertible` for a format that `convert` cannot read. Text without any known one counts as JSONL.
    """
    with path.open("rb") as stream:
        kind = binary_kind(stream)
        try:
            text = unpacked(stream)
            if kind is not None and (inner := binary_kind(text)) is not None:
                raise Unconvertible(f"the file is {kind.name} that holds {inner.name}; unpack it")
            head = text.read(HEAD_BYTES)
            is_whole = not text.read(1)
            text.seek(0)
            scanned = inf if kind is None else SCANNED_BYTES
            encoding = encoding_of(text, scanned) if codec is None else Encoding(codec, codec)
        except UNPACK_ERRORS as error:
            raise Unconvertible(
                f"the file is {kind.name if kind else 'damaged'} that cannot be read: {why_unreadable(error)}"
            ) from error
    shown = head.decode(encoding.codec or "latin-1", errors="ignore").removeprefix("\ufeff")
    syntax, delimiter, columns = _syntax_of(shown, is_whole)
    return Format(kind.name if kind else None, encoding, syntax, delimiter, columns)


def _syntax_of(head: str, is_whole: bool) -> tuple[Syntax, str, tuple[str, ...]]:
    text = head.lstrip()
    lines = [line for line in text.split("\n") if line.strip()]
    if not is_whole and len(lines) > 1:
        lines.pop()  # it is cut
    if len(lines) == 1 and (WRAPPER.match(text) or _COLUMNS.match(text)):
        return _json_syntax(text, lines, is_whole), ",", ()
    if not lines or 2 * sum(map(_is_object, lines)) >= len(lines):
        return Syntax.jsonl, ",", ()
    if text.startswith(("{", "[")):
        return _json_syntax(text, lines, is_whole), ",", ()
    for delimiter in _DELIMITERS:
        if columns := _table_columns(head, delimiter, is_whole):
            return Syntax.table, delimiter, columns
    _refuse_other(text)
    return Syntax.jsonl, ",", ()


def _json_syntax(text: str, lines: list[str], is_whole: bool) -> Syntax:
    if _PYTHON.match(text) or _is_literal(lines[0]):
        return Syntax.python
    if _COLUMNS.match(text):
        raise Unconvertible(
            "the file is JSON by column, not one object a line; write it with pandas: "
            "`df.to_json(PATH, orient='records', lines=True)`"
        )
    if text.startswith("["):
        return Syntax.array if text[1:].lstrip().startswith("{") else Syntax.jsonl
    if WRAPPER.match(text):
        return Syntax.wrapped
    return _object_syntax(text, lines, is_whole)


def _object_syntax(text: str, lines: list[str], is_whole: bool) -> Syntax:
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        is_indented = len(lines) > 1 and lines[0].rstrip().endswith(("{", "[", ",")) and not lines[1].startswith("{")
        return Syntax.objects if is_indented and not is_whole else Syntax.jsonl
    if not isinstance(value, dict):
        return Syntax.jsonl
    if "\n" in text[:end]:
        return Syntax.objects
    return Syntax.listed if re.match(r"\s*,?\s*(\{|\Z)", text[end:]) else Syntax.jsonl


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _is_literal(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        try:
            return isinstance(ast.literal_eval(line), dict | list)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return False
    return False


def _table_columns(head: str, delimiter: str, is_whole: bool) -> tuple[str, ...]:
    """Return the names in the first line if all lines have as many cells; else nothing."""
    try:
        rows = [row for row in csv.reader(StringIO(head, newline=""), delimiter=delimiter) if row]
    except csv.Error:
        return ()
    rows = rows[:_CSV_LINES] if is_whole else rows[: min(_CSV_LINES, len(rows) - 1)]
    if len(rows) < 2 or len(rows[0]) < 2 or {len(row) for row in rows} != {len(rows[0])}:
        return ()
    names = tuple(name.strip() for name in rows[0])
    return names if all(names) and len(set(names)) == len(names) else ()


def _refuse_other(text: str) -> None:
    if text.startswith("<"):
        raise Unconvertible(
            "the file is HTML or XML, perhaps a saved web page; upload its rows as JSONL, one object a line"
        )
    if _YAML.match(text):
        raise Unconvertible("the file is YAML; write each row as a JSON object on one line")
    first = text.split("\n", 1)[0]
    if first and not first.lstrip().startswith(('"', "{", "[")) and len(first.split()) > 1 and first.isprintable():
        raise Unconvertible("the file is plain text; write each row as a JSON object on one line")
