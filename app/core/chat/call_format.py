"""How a model writes tool calls, and how they are read out of its text."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol

from app.core.chat.literals import read_json, read_literal, read_word, skip_space

NAME: Final = "\0"
"""Stands for the function's name where a format writes it more than once."""
_NAME: Final = r"[\w.\-]++"
_KEY: Final = r"[^\s<>\"'=:,(){}]{1,200}"
_TEXT_KEY: Final = r"[^<>\n\"]{1,200}?"
_NEVER: Final = r"(?!)"
_MAX_MALFORMED: Final = 32
"""Unreadable calls of one text after which the rest is plain text; keeps reading linear in the text's length."""

Types = Mapping[str, Mapping[str, Any]]
"""Declared JSON types of the parameters, by function and parameter."""


@dataclass(frozen=True)
class Call:
    """One tool call."""

    name: str
    arguments: str
    """A JSON object."""
    id: str | None = None

    def to_wire(self, index: int) -> dict[str, Any]:
        """Return the call in OpenAI's shape; calls of a format without ids are numbered."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id or f"call_{index}", "type": "function", "function": function}


def _call(name: object, arguments: object, call_id: object = None) -> Call:
    """Check the parts of a call. Raises ValueError."""
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise ValueError("a call needs a name and an object of arguments")
    written = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    if any("\ud800" <= character <= "\udfff" for character in written):  # half a pair cannot be stored as it is
        written = json.dumps(arguments)
    return Call(name, written, call_id if isinstance(call_id, str) else None)


def parameter_types(tools: Sequence[Mapping[str, Any]]) -> Types:
    """Return the declared types of the parameters of tools in OpenAI's shape."""
    return dict(_declared(tool.get("function", tool)) for tool in tools)


def _declared(function: Any) -> tuple[str, dict[str, Any]]:
    name = str(function.get("name")) if isinstance(function, Mapping) else ""
    schema = function.get("parameters") if name else None
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(properties, Mapping):
        return name, {}
    return name, {key: field.get("type") for key, field in properties.items() if isinstance(field, Mapping)}


def pattern(literal: str) -> str:
    """Return a regular expression for the literal in which whitespace may vary, also where it is absent."""
    parts = [re.escape(part).replace(re.escape(NAME), _NAME) for part in literal.split()]
    if not parts:
        return ""
    return (r"\s*+" * literal[0].isspace()) + r"\s*+".join(parts) + (r"\s*+" * literal[-1].isspace())


class CallSyntax(Protocol):
    """Reads one call: name and arguments, without the marks around them."""

    def read(self, text: str, at: int, types: Types, tail: str) -> tuple[Call, int]:
        """Return the call and the position after it; `tail` is the pattern of the mark behind. Raises ValueError."""
        ...


@dataclass(frozen=True)
class JsonObject:
    """`{"name": "get_weather", "arguments": {"city": "Oban"}}`"""

    name_key: str
    arguments_key: str
    id_key: str | None

    def read(self, text: str, at: int, types: Types, tail: str) -> tuple[Call, int]:
        value, end = read_json(text, at)
        if not isinstance(value, dict):
            raise ValueError("a call is an object")
        arguments = value.get(self.arguments_key)
        if isinstance(arguments, str):
            arguments, _ = read_json(arguments, 0)
        return _call(value.get(self.name_key), arguments, value.get(self.id_key) if self.id_key else None), end


@dataclass(frozen=True)
class NameThenJson:
    """`get_weather<mark>{"city": "Oban"}`"""

    between: str

    def read(self, text: str, at: int, types: Types, tail: str) -> tuple[Call, int]:
        name, at = _read(_NAME, text, at)
        _, at = _read(pattern(self.between), text, at)
        arguments, end = read_json(text, at)
        return _call(name, arguments), end


@dataclass(frozen=True)
class NamedArguments:
    """`get_weather(city='Oban')` or `<function=get_weather><parameter=city>Oban</parameter></function>`"""

    between: str
    """From the function's name to the first key, without what precedes each key."""
    before_key: str
    after_key: str
    after_value: str
    separator: str
    quote: str
    """What encloses strings; empty if values are plain text."""
    escapes: bool
    """Whether a quote within a string is escaped."""

    def read(self, text: str, at: int, types: Types, tail: str) -> tuple[Call, int]:
        name, at = _read(_NAME, text, at)
        _, at = _read(pattern(self.between.rstrip()), text, at)
        arguments: dict[str, Any] = {}
        declared = types.get(name, {})
        key = re.compile(self._key)
        while match := key.match(text, at):
            field = match[1].strip()
            arguments[field], at = self._value(text, match.end(), declared.get(field), tail)
            if self.separator:
                following = re.compile(r"\s*+" + pattern(self.separator)).match(text, at)
                if following is None:
                    break
                at = following.end()
        return _call(name, arguments), at

    @property
    def _key(self) -> str:
        name = _KEY if self.quote else _TEXT_KEY
        return rf"\s*+{pattern(self.before_key.lstrip())}({name}){pattern(self.after_key.rstrip())}"

    def _value(self, text: str, at: int, declared: Any, tail: str) -> tuple[Any, int]:
        if self.quote and (self.escapes or not text.startswith(self.quote, at)):
            value, at = read_literal(text, at, self.quote)
            return value, _read(pattern(self.after_value), text, at)[1]
        at += len(self.quote)
        gap = self.after_key[len(self.after_key.rstrip()) :]
        at += len(gap) if text.startswith(gap, at) else 0
        close = self.quote + self.after_value
        following = rf"{pattern(self.separator)}{self._key}|\s*+{tail or _NEVER}|\s*+\Z"
        end = re.compile(rf"{re.escape(close.strip())}(?={following})").search(text, at)
        if end is None:
            raise ValueError("a value has no end")
        raw = text[at : end.start()].removesuffix(close[: len(close) - len(close.lstrip())])
        is_text = self.quote or declared == "string" or (isinstance(declared, list) and "string" in declared)
        return (raw if is_text else read_word(raw)), end.end()


@dataclass(frozen=True)
class CallFormat:
    """The marks around the calls of an answer, and the syntax of each call."""

    opening: str
    """Before the first call."""
    head: str
    """Before every call."""
    syntax: CallSyntax
    tail: str
    """After every call."""
    separator: str
    closing: str
    """After the last call, or after text behind it."""
    text_start: str
    """Before the text of a message that also has calls."""

    @property
    def is_marked(self) -> bool:
        """Whether something announces a call; otherwise only a whole answer can be one."""
        return bool((self.opening + self.head).strip())

    def split(self, text: str, types: Types) -> tuple[list[str], list[Call]]:
        """Return the text around the calls, in pieces, and the calls. What cannot be read stays text."""
        pieces: list[str] = []
        calls: list[Call] = []
        written = at = malformed = 0
        while malformed < _MAX_MALFORMED and (start := self._opener.search(text, at)):
            found, end = self._section(text, start.end(), types)
            if found:
                pieces.append(text[written : start.start()])
                calls += found
                written = end
            else:
                malformed += 1
            at = max(end, start.end(), at + 1)
        if calls:
            pieces[0] = pieces[0].strip().removeprefix(self.text_start)
        return [*pieces, text[written:].strip().removesuffix(self.closing.strip()) if calls else text], calls

    def _section(self, text: str, at: int, types: Types) -> tuple[list[Call], int]:
        """Read calls that follow each other; return them and the position after the last."""
        calls: list[Call] = []
        end = at
        while True:
            try:
                call, at = self.syntax.read(text, at, types, self._tail)
                at = self._after_tail(text, skip_space(text, at))
            except ValueError:
                return calls, end
            calls.append(call)
            end = at
            if closing := self._closing.match(text, at):
                return calls, closing.end()
            if (following := self._following.match(text, at)) is None:
                return calls, end
            at = following.end()

    def _after_tail(self, text: str, at: int) -> int:
        """Return the position after the mark behind a call. Raises ValueError if the call may go on.

        The end token may stand for the last part of the mark, but only JSON shows where arguments end without it.
        """
        first = re.match(r"<[^<>]*>|\S|\Z", self.tail.strip())
        least = re.escape(first[0]) if first and isinstance(self.syntax, NamedArguments) else ""
        return _read(rf"(?:{self._tail}|{least}\s*+\Z)", text, at)[1]

    @cached_property
    def _opener(self) -> re.Pattern[str]:
        mark = pattern(self.opening.lstrip()) + pattern(self.head if self.opening.strip() else self.head.lstrip())
        return re.compile(mark or r"\A\s*+(?=\{)")

    @cached_property
    def _tail(self) -> str:
        return pattern(self.tail.strip())

    @cached_property
    def _following(self) -> re.Pattern[str]:
        return re.compile(r"\s*+" + pattern(self.separator) + pattern(self.head))

    @cached_property
    def _closing(self) -> re.Pattern[str]:
        return re.compile((r"\s*+" + pattern(self.closing.strip())) if self.closing.strip() else _NEVER)


def _read(expression: str, text: str, at: int) -> tuple[str, int]:
    """Return what the expression matches behind whitespace, and the position after it. Raises ValueError."""
    at = skip_space(text, at)
    match = re.compile(expression).match(text, at)
    if match is None:
        raise ValueError(f"position {at} does not match {expression}")
    return match[0], match.end()
