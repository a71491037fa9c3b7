"""Converts files of other formats to JSONL rows, one at a time: archives, other encodings, tables, rows of other tools.

Rows that are valid already stay as they are. Rows that no conversion makes valid are kept too: validation names them.
"""

import ast
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final, TextIO, cast

from app.core.files import parquet
from app.core.files.archives import UNPACK_ERRORS, Unconvertible, unpacked
from app.core.files.formats import WRAPPER, Format, Syntax, recognise
from app.core.files.parquet import MAX_RATIO, MIN_UNPACKED_BYTES
from app.core.files.shapes import MAP, named, shape_of, with_columns
from app.core.files.validation import MAX_FILE_BYTES, MAX_ROWS
from app.core.parse_errors import json_problem, why_unreadable
from app.core.scratch import scratch_directory
from app.core.spec.json_lines import DECODER, MAX_LINE_BYTES, Refused, load_object
from app.core.spec.rows import RowError, parse_row

_READ_CHARACTERS: Final = 1 << 16
_MAX_RECORD_CHARACTERS: Final = 4 * MAX_LINE_BYTES
"""Limit of one record before its conversion: indentation and markup take space."""
_SEPARATORS: Final = re.compile(r"[\s,]*")

Json = dict[str, Any]


def rows(path: Path, columns: Mapping[str, str] | None = None, encoding: str | None = None) -> Iterator[Json]:
    """Yield the rows of a file of any known format.

    `columns` maps fields of a row to columns of the file; with it, no columns are guessed. `encoding` is a codec for a
    text whose encoding cannot be recognised. Raises `Unconvertible`.
    """
    with _as_text(path) as source:
        found = recognise(source, encoding)
        first: Json | None = None
        absent = set((columns or {}).values())
        for number, record in enumerate(_records(source, found), start=1):
            if number > MAX_ROWS:
                raise Unconvertible(f"the file has more than {MAX_ROWS:,} rows; split it")
            first = record if first is None else first
            absent -= record.keys()
            yield _row(record, number, columns)
    if first is None:
        raise Unconvertible("the file holds no rows")
    if absent:
        raise _absent(absent, first)


@contextmanager
def _as_text(path: Path) -> Iterator[Path]:
    """Yield the path itself, or for a Parquet file the path of a temporary JSONL copy."""
    if not parquet.is_parquet(path):
        yield path
        return
    with scratch_directory("parquet") as directory:
        copy = directory / "rows.jsonl"
        try:
            parquet.to_jsonl(path, copy, lambda _done, _total: None)
        except parquet.UnreadableParquet as error:
            raise Unconvertible(str(error)) from error
        yield copy


def _row(record: Json, number: int, columns: Mapping[str, str] | None) -> Json:
    row = with_columns(record, columns) if columns else record
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    except RecursionError as error:
        raise Unconvertible(f"row {number} is nested too deeply") from error
    except (ValueError, TypeError) as error:
        raise Unconvertible(
            f"row {number} has a value that JSON lacks: NaN, an infinite number, bytes, a set or a complex number"
        ) from error
    try:
        parse_row(text.encode(errors="surrogatepass"), number)
    except RowError:
        shape = shape_of(row) if not columns else None
        if shape is not None:
            return shape.row
        if number == 1 and not row.keys() & {"messages", "prompt", "input"}:
            absent = set((columns or {}).values()) - record.keys()
            raise (_absent(absent, record) if absent else _unmapped(row)) from None
    return row


def _absent(columns: set[str], first: Json) -> Unconvertible:
    return Unconvertible(f"no row has the field {named(sorted(columns))}; the fields of row 1 are {named(first)}")


def _unmapped(row: Json) -> Unconvertible:
    return Unconvertible(
        f"the fields of the rows are {named(row)}; none of them is known to hold the prompt. Map them: {MAP}"
    )


def _records(path: Path, found: Format) -> Iterator[Json]:
    if found.encoding.codec is None:
        raise Unconvertible(f"the file is in {found.encoding.name}; name the encoding with --encoding, for example gbk")
    with path.open("rb") as stream:
        limit = max(MAX_RATIO * path.stat().st_size, MIN_UNPACKED_BYTES)
        raw = io.BufferedReader(_Bounded(unpacked(stream), limit))
        # Universal newlines must not change the line breaks in the cells of a table.
        text = io.TextIOWrapper(
            raw, encoding=found.encoding.codec, newline="" if found.syntax is Syntax.table else None
        )
        try:
            yield from _parsed(text, found)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise Unconvertible(
                f"the file is not {found.encoding.name}: it has the byte 0x{byte:02x}; name another with --encoding"
            ) from error
        except UNPACK_ERRORS as error:
            raise Unconvertible(f"the file cannot be read: {why_unreadable(error)}") from error


class _Bounded(io.RawIOBase):
    """Reads a stream up to a limit, so that a small archive cannot fill the disk."""

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream = stream
        self._left = min(limit, MAX_FILE_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = cast(bytes, self._stream.read(len(buffer)))
        self._left -= len(data)
        if self._left < 0:
            raise Unconvertible(f"the file unpacks to more than {MAX_RATIO} times its size; unpack it and split it")
        buffer[: len(data)] = data
        return len(data)


def _parsed(text: TextIO, found: Format) -> Iterator[Json]:
    match found.syntax:
        case Syntax.table:
            return _table_rows(text, found)
        case Syntax.python:
            return _objects(chain.from_iterable(map(_literal, _lines(text))))
        case Syntax.jsonl:
            return _objects((number, _object(line, number)) for number, line in _lines(text))
        case _:
            return _objects(enumerate(_values(text, found.syntax), start=1))


def _objects(values: Iterator[tuple[int, Any]]) -> Iterator[Json]:
    for number, value in values:
        if not isinstance(value, dict):
            raise Unconvertible(f"row {number} is not an object")
        yield value


def _lines(text: TextIO) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers. Raises `Unconvertible` for an overlong one."""
    number = 0
    while line := text.readline(_MAX_RECORD_CHARACTERS):
        number += 1
        if len(line) == _MAX_RECORD_CHARACTERS:
            raise Unconvertible(f"line {number} is too long: more than {_MAX_RECORD_CHARACTERS:,} characters")
        if line.strip():
            yield number, line


def _literal(line: tuple[int, str]) -> Iterator[tuple[int, Any]]:
    number, text = line
    try:
        try:
            value = json.loads(text)
        except ValueError:
            value = ast.literal_eval(text.strip().removesuffix(","))
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise Unconvertible(f"line {number} is neither JSON nor a Python literal") from error
    return ((number, entry) for entry in (value if isinstance(value, list) else [value]))


def _object(line: str, number: int) -> Json:
    try:
        return load_object(line.rstrip("\n"))
    except Refused as refused:
        raise Unconvertible(f"line {number}: {refused.message}") from None


def _values(text: TextIO, syntax: Syntax) -> Iterator[Any]:
    """Yield JSON values with white space and commas between them, one at a time, from a list or until the end."""
    buffer, at = text.read(_READ_CHARACTERS).removeprefix("\ufeff"), 0
    is_list = syntax in (Syntax.array, Syntax.wrapped)
    if is_list:
        start = WRAPPER.match(buffer)
        at = start.end() if start else buffer.index("[") + 1
    number = 0
    while True:
        at = cast(re.Match[str], _SEPARATORS.match(buffer, at)).end()
        if is_list and buffer.startswith("]", at):
            return
        problem = "the list has no end"
        if at < len(buffer):
            try:
                value, at = DECODER.raw_decode(buffer, at)
            except Refused as refused:
                raise Unconvertible(f"row {number + 1}: {refused.message}") from None
            except (ValueError, RecursionError) as error:
                problem = _why_not_json(error)
            else:
                number += 1
                yield value
                continue
        buffer, at = buffer[at:], 0
        more = text.read(max(_READ_CHARACTERS, len(buffer)))
        if not more and not buffer and not is_list:
            return
        if not more or len(buffer) > _MAX_RECORD_CHARACTERS:
            raise Unconvertible(f"row {number + 1}: invalid JSON: {problem}")
        buffer += more


def _why_not_json(error: Exception) -> str:
    match error:
        case json.JSONDecodeError():
            return json_problem(error)[1]
        case RecursionError():
            return "it is nested too deeply"
        case _:  # CPython limits the digits of an int to prevent quadratic parsing time
            return "a number has too many digits; write it as a string"


def _table_rows(text: TextIO, found: Format) -> Iterator[Json]:
    reader = csv.reader(text, delimiter=found.delimiter, strict=True)
    names = found.columns
    try:
        next(row for row in reader if row)
        for cells in filter(None, reader):
            if len(cells) != len(names):
                raise Unconvertible(f"line {reader.line_num} has {len(cells)} cells, and the header has {len(names)}")
            yield {name: _cell(name, cell) for name, cell in zip(names, cells, strict=True)}
    except csv.Error as error:
        raise Unconvertible(
            f"line {reader.line_num} of the table cannot be read: a quote is not closed or not doubled, or a cell has "
            f"more than {csv.field_size_limit():,} characters"
        ) from error


_JSON_COLUMNS: Final = frozenset({"messages", "tools", "teacher_responses", "conversations", "chosen", "rejected"})


def _cell(name: str, cell: str) -> Any:
    """Cells are text, but a column of the row format that holds a list is written as JSON."""
    if name not in _JSON_COLUMNS or not cell.lstrip().startswith("["):
        return cell
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return cell
