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
_SPACE: Final = r"\s*+"
_NAME: Final = r"[\w.\-]++"
_KEY: Final = r"[^\s<>\"'=:,(){}]{1,200}"
_TEXT_KEY: Final = r"[^<>\n\"]{1,200}?"
_NEVER: Final = r"(?!)"

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


def atoms(literal: str) -> list[str]:
    """Return regular expressions for the parts of a literal in which whitespace may vary, also where it is absent."""
    if not literal.strip():
        return []
    parts = re.findall(r"\s+|\S", literal)
    return [_SPACE if part.isspace() else _NAME if part == NAME else re.escape(part) for part in parts]


def pattern(literal: str) -> str:
    """Return the regular expression of all `atoms` of a literal."""
    return "".join(atoms(literal))


def prefixes(parts: Sequence[str]) -> str:
    """Return a regular expression that matches the first part, or the first parts, of a sequence of atoms."""
    nested = ""
    for part in reversed(parts):
        nested = f"{part}(?:{nested})?" if nested else part
    return nested


class CallSyntax(Protocol):
    """Reads one call: name and arguments, without the marks around them."""

    def read(self, text: str, at: int, types: Types, tail: str) -> tuple[Call, int]:
        """Return the call and the position after it; `tail` is the pattern of the mark behind. Raises ValueError."""
        ...

    def may_start(self, text: str, at: int) -> bool:
        """Return whether a call may start at a position, as far as the text shows."""
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

    def may_start(self, text: str, at: int) -> bool:
        return text[skip_space(text, at) :][:1] in ("", "{")


@dataclass(frozen=True)
class NameThenJson:
    """`get_weather<mark>{"city": "Oban"}`"""

    between: str

    def read(self, text: str, at: int, types: Types, tail: str) -> tuple[Call, int]:
        name, at = _read(_NAME, text, at)
        _, at = _read(pattern(self.between), text, at)
        arguments, end = read_json(text, at)
        return _call(name, arguments), end

    def may_start(self, text: str, at: int) -> bool:
        return _may_start_name(text, at)


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

    def may_start(self, text: str, at: int) -> bool:
        return _may_start_name(text, at)

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

    def names_function(self, text: str, at: int, types: Types) -> bool:
        """Return whether an unfinished object starts like a call of a declared function."""
        key = self.syntax.name_key if isinstance(self.syntax, JsonObject) else ""
        head = atoms(f'{{ "{key}" : "')
        names = [[*head, *map(re.escape, name), '"'] for name in types]
        return any(re.compile(rf"{''.join(name)}|{prefixes(name)}\Z").match(text, at) for name in names)

    def section(self, text: str, at: int, types: Types) -> tuple[list[Call], int]:
        """Read calls that follow each other; return them and the position after the last."""
        calls: list[Call] = []
        end, has_call = at, True
        while has_call:
            try:
                call, at = self.read(text, at, types)
            except ValueError:
                break
            calls.append(call)
            after, has_call = self.follow(text, at, is_ended=True) or (at, False)
            at, end = after, at if has_call else after
        return calls, end

    def read(self, text: str, at: int, types: Types) -> tuple[Call, int]:
        """Return the call at a position, and the position after its mark. Raises ValueError."""
        call, at = self.syntax.read(text, at, types, self._tail)
        return call, self._after_tail(text, skip_space(text, at))

    def follow(self, text: str, at: int, *, is_ended: bool) -> tuple[int, bool] | None:
        """Return the position after what stands behind a call, and whether another call starts there.

        Returns None if more text decides.
        """
        if closing := self._closing.match(text, at):
            return closing.end(), False
        if not is_ended and self._closing_start.fullmatch(text, at):
            return None
        if following := self._following.match(text, at):
            return following.end(), True
        if not is_ended and self._following_start.fullmatch(text, at):
            return None
        return at, False

    def _after_tail(self, text: str, at: int) -> int:
        """Return the position after the mark behind a call. Raises ValueError if the call may go on.

        The end token may stand for the last part of the mark, but only JSON shows where arguments end without it.
        """
        first = re.match(r"<[^<>]*>|\S|\Z", self.tail.strip())
        least = re.escape(first[0]) if first and isinstance(self.syntax, NamedArguments) else ""
        return _read(rf"(?:{self._tail}|{least}\s*+\Z)", text, at)[1]

    @cached_property
    def opener(self) -> list[str]:
        """The atoms before the first call; empty if nothing announces calls."""
        if self.opening.strip():
            return [*atoms(self.opening.lstrip()), *atoms(self.head)]
        return atoms(self.head.lstrip())

    @cached_property
    def _tail(self) -> str:
        return pattern(self.tail.strip())

    @cached_property
    def _following(self) -> re.Pattern[str]:
        return re.compile(_SPACE + pattern(self.separator) + pattern(self.head))

    @cached_property
    def _following_start(self) -> re.Pattern[str]:
        return re.compile(prefixes([_SPACE, *atoms(self.separator), *atoms(self.head)]))

    @cached_property
    def _closing(self) -> re.Pattern[str]:
        return re.compile((_SPACE + pattern(self.closing.strip())) if self.closing.strip() else _NEVER)

    @cached_property
    def _closing_start(self) -> re.Pattern[str]:
        return re.compile(prefixes([_SPACE, *atoms(self.closing.strip())]) if self.closing.strip() else _NEVER)


def _may_start_name(text: str, at: int) -> bool:
    start = text[skip_space(text, at) :][:1]
    return not start or re.match(_NAME, start) is not None


def _read(expression: str, text: str, at: int) -> tuple[str, int]:
    """Return what the expression matches behind whitespace, and the position after it. Raises ValueError."""
    at = skip_space(text, at)
    match = re.compile(expression).match(text, at)
    if match is None:
        raise ValueError(f"position {at} does not match {expression}")
    return match[0], match.end()
