"""Reads the values that models write in tool calls: JSON, Python literals, or strings between a token of their own."""

import json
import re
from typing import Any, Final

_MAX_DEPTH: Final = 64
_SPACE: Final = re.compile(r"\s*+")
_NUMBER: Final = re.compile(r"-?\d++(?:\.\d++)?+(?:[eE][+-]?\d++)?+")
_WORD: Final = re.compile(r"\w++")
_BARE_KEY: Final = re.compile(r"[^:,{}\[\]]++")
_QUOTED: Final = {quote: re.compile(rf"{quote}((?:[^{quote}\\]|\\.)*+){quote}", re.DOTALL) for quote in "\"'"}
_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U(00[01][0-9a-fA-F]{5})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_CHARACTERS: Final = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "0": "\0", "\n": ""}
_CONSTANTS: Final = {"true": True, "false": False, "null": None, "none": None}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_JSON: Final = json.JSONDecoder(strict=False, parse_constant=_refuse_constant)


def skip_space(text: str, at: int) -> int:
    """Return the position of the next character that is no whitespace."""
    match = _SPACE.match(text, at)
    return match.end() if match else at


def read_json(text: str, at: int) -> tuple[Any, int]:
    """Return the JSON value at a position and the position after it. Raises ValueError."""
    try:
        return _JSON.raw_decode(text, skip_space(text, at))
    except RecursionError as error:
        raise ValueError("the value is nested too deeply") from error


def read_literal(text: str, at: int, quote: str, depth: int = 0) -> tuple[Any, int]:
    """Return the JSON-like or Python-like value at a position and the position after it. Raises ValueError.

    `quote` also delimits strings, without escapes unless it is an ordinary quotation mark.
    """
    at = skip_space(text, at)
    if depth > _MAX_DEPTH:
        raise ValueError("the value is nested too deeply")
    if text.startswith("[", at):
        return _read_list(text, at + 1, quote, depth + 1)
    if text.startswith("{", at):
        return _read_object(text, at + 1, quote, depth + 1)
    if text.startswith((quote, '"', "'"), at):
        return _read_string(text, at, quote)
    if match := _NUMBER.match(text, at):
        return json.loads(match[0]), match.end()
    if (match := _WORD.match(text, at)) and match[0].lower() in _CONSTANTS:
        return _CONSTANTS[match[0].lower()], match.end()
    raise ValueError(f"no value at position {at}")


def read_word(text: str) -> Any:
    """Return the value that plain text stands for: JSON, True, False or None; any other text is itself."""
    if text in ("True", "False", "None"):
        return _CONSTANTS[text.lower()]
    try:
        value, end = read_json(text, 0)
    except ValueError:
        return text
    return text if text[end:].strip() else value


def _read_string(text: str, at: int, quote: str) -> tuple[str, int]:
    if quote not in _QUOTED and text.startswith(quote, at):
        end = text.index(quote, at + len(quote))
        return text[at + len(quote) : end], end + len(quote)
    match = _QUOTED[text[at]].match(text, at)
    if match is None:
        raise ValueError(f"the string at position {at} has no end")
    return _ESCAPE.sub(_unescape, match[1]), match.end()


def _unescape(match: re.Match[str]) -> str:
    if code := match[1] or match[2] or match[3]:
        return chr(int(code, 16))
    character = match[4]
    return _CHARACTERS.get(character, character if character in "\\'\"/" else "\\" + character)


def _read_list(text: str, at: int, quote: str, depth: int) -> tuple[list[Any], int]:
    values: list[Any] = []
    while not text.startswith("]", at := skip_space(text, at)):
        value, at = read_literal(text, at, quote, depth)
        values.append(value)
        at = _after_comma(text, at, "]")
    return values, at + 1


def _read_object(text: str, at: int, quote: str, depth: int) -> tuple[dict[str, Any], int]:
    values: dict[str, Any] = {}
    while not text.startswith("}", at := skip_space(text, at)):
        if text.startswith((quote, '"', "'"), at):
            key, at = _read_string(text, at, quote)
        elif match := _BARE_KEY.match(text, at):
            key, at = match[0].strip(), match.end()
        else:
            raise ValueError(f"no key at position {at}")
        at = skip_space(text, at)
        if not text.startswith(":", at):
            raise ValueError(f"no colon at position {at}")
        values[key], at = read_literal(text, at + 1, quote, depth)
        at = _after_comma(text, at, "}")
    return values, at + 1


def _after_comma(text: str, at: int, end: str) -> int:
    at = skip_space(text, at)
    if text.startswith(",", at):
        return at + 1
    if text.startswith(end, at):
        return at
    raise ValueError(f"no comma at position {at}")
