"""Reads JSONL strictly: numbered lines, each one object without duplicate keys or NaN, of bounded size and depth.

Every reader of data files splits and parses lines here, so all agree on byte order marks, line endings and limits.
"""

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Final, NamedTuple, NoReturn

from jiter import from_json

from app.core.parse_errors import json_place

MAX_LINE_BYTES: Final = 1_000_000
MAX_DEPTH: Final = 32
_BOM: Final = b"\xef\xbb\xbf"


class Refused(Exception):
    """What is wrong with a line whose number is not known yet; `param` is the path of the field."""

    def __init__(self, param: str | None, message: str) -> None:
        super().__init__(message)
        self.param = param
        self.message = message


class Line(NamedTuple):
    """One line without its line ending. Of an overlong line, just enough for `load_object` to refuse it."""

    number: int
    """Counted from 1."""
    offset: int
    """Position of its first byte in the file."""
    content: bytes


def lines(stream: BinaryIO, number: int = 1, offset: int = 0) -> Iterator[Line]:
    """Yield all lines from line `number`, which begins at byte `offset`, including blank ones.

    Constant memory: `readline` reads at most a few bytes past the limit of a line, and the rest of an overlong line is
    read and dropped in pieces, so that line numbers and offsets stay correct.
    """
    stream.seek(offset)
    while raw := stream.readline(MAX_LINE_BYTES + 3):
        size = len(raw)
        rest = raw
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_LINE_BYTES)
            size += len(rest)
        yield Line(number, offset, line_content(raw, number))
        number += 1
        offset += size


def line_content(raw: bytes, line: int) -> bytes:
    """Return a line without line ending and, on line 1, without byte order mark."""
    raw = raw.removeprefix(_BOM) if line == 1 else raw
    return raw.removesuffix(b"\n").removesuffix(b"\r")


def quoted(text: str, limit: int = 60) -> str:
    """Return untrusted text shortened and escaped for an error message."""
    return ascii(text if len(text) <= limit else text[: limit - 3] + "...")


def load_object(raw: bytes | str) -> dict[str, Any]:
    """Return the object on a line. Raises `Refused`."""
    encoded = _encoded(raw)
    try:
        value = from_json(encoded, allow_inf_nan=False, cache_mode="keys", catch_duplicate_keys=True)
    except ValueError:
        value = _explained(encoded)
    # A line with fewer brackets than MAX_DEPTH cannot be too deep; this saves the walk for nearly every line.
    if encoded.count(b"{") + encoded.count(b"[") > MAX_DEPTH and nests_deeper(value, MAX_DEPTH):
        raise _too_deep()
    if not isinstance(value, dict):
        raise Refused(None, f"the line is a JSON {_kind(value)}; each line must be one object, like {{...}}")
    if _has_infinity(value):
        _explained(encoded)
    return value


def _explained(encoded: bytes) -> Any:
    """Parse a line that the fast parser does not accept as it is. Raises `Refused` with the cause."""
    try:
        text = encoded.decode()
    except UnicodeDecodeError as error:
        raise Refused(None, f"byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
    value = decode(text, "each line must be one complete object")
    if isinstance(value, dict):
        _check_surrogates(value)
    return value


def _has_infinity(value: dict[str, Any] | list[Any]) -> bool:
    """Return whether a number is infinite: the fast parser reads 1e999 so."""
    children: Iterable[Any] = value.values() if isinstance(value, dict) else value
    for child in children:
        kind = type(child)
        if kind is str:
            continue
        if _has_infinity(child) if kind is dict or kind is list else kind is float and math.isinf(child):
            return True
    return False


def decode(text: str, hint: str) -> Any:
    """Return the JSON value of a text. Raises `Refused`; `hint` says what was expected."""
    try:
        return DECODER.decode(text)
    except json.JSONDecodeError as error:
        _, column, words = json_place(error)
        words = words if text.strip() else "the line is empty"
        raise Refused(None, f"invalid JSON at column {column}: {words}; {hint}".removesuffix("; ")) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # CPython limits the digits of an int to prevent quadratic parsing time
        raise Refused(None, "a number has too many digits; write it as a string") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise Refused(None, f"the key {quoted(name)} appears twice in one object; keep one of them")
            seen.add(name)
    return result


def _constant(name: str) -> NoReturn:
    raise Refused(None, f"{name} is not a JSON number; use null or leave the field out")


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise Refused(None, f"the number {quoted(digits)} is too large; write it as a string")
    return value


DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
"""Raises `Refused` for what a row may not contain, besides `JSONDecodeError`."""


def _encoded(raw: bytes | str) -> bytes:
    try:
        encoded = raw.encode() if isinstance(raw, str) else raw
    except UnicodeEncodeError:
        raise Refused(None, "the line contains a lone surrogate; remove the character") from None
    if len(encoded) > MAX_LINE_BYTES:
        raise Refused(None, f"the line has more than {MAX_LINE_BYTES:,} bytes; shorten or split the row")
    return encoded


def _kind(value: object) -> str:
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")


def _too_deep() -> Refused:
    return Refused(None, f"objects and arrays are nested more than {MAX_DEPTH} deep; flatten the row")


def nests_deeper(value: object, levels: int) -> bool:
    """Return whether objects and arrays are nested more than `levels` deep."""
    level: list[Any] = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        containers = (parent.values() if isinstance(parent, dict) else parent for parent in level)
        level = [child for container in containers for child in container if isinstance(child, dict | list)]
    return bool(level)


def _check_surrogates(row: dict[str, Any]) -> None:
    for name, value in row.items():
        try:
            json.dumps([name, value], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            shown = quoted(name)[1:-1]
            raise Refused(shown, f"`{shown}` contains half a surrogate pair; write both halves or neither") from None
