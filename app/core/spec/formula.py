"""Parser for the formula of a `multi` grader: `+ - * / ^`, numbers, names, parentheses and a few functions.

The formula is never executed as Python. `^` is power and binds to the right, as in mathematics: `-2^2` is -4,
`2^3^2` is 512.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

MAX_LENGTH: Final = 2000
MAX_DEPTH: Final = 50

_TOKEN: Final = re.compile(r"\s*(?:(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)|([^\W\d]\w*)|([-+*/^(),]))")
_FUNCTIONS: Final[Mapping[str, Callable[..., float]]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
_SEVERAL: Final = frozenset({"min", "max"})
_OPERATORS: Final[Mapping[str, Callable[[float, float], float]]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right,
    # math.pow stays with floats: `9^9^9^9` overflows at once instead of computing a huge integer.
    "^": math.pow,
}

Evaluate = Callable[[Mapping[str, float]], float]


@dataclass(frozen=True)
class Formula:
    """A parsed formula."""

    names: frozenset[str]
    """The variables that the formula reads."""
    evaluate: Evaluate
    """Computes the value. Raises `ArithmeticError` or `ValueError` where it is undefined (1 / 0, log of 0)."""


def parse_formula(text: str) -> Formula:
    """Parse a formula. Raises `ValueError` that names the problem and its position."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"the formula has more than {MAX_LENGTH} characters")
    parser = _Parser(text)
    evaluate = parser.sum(0)
    if parser.word:
        raise ValueError(f"the formula is complete before {parser.word!r} at character {parser.at}; remove the rest")
    return Formula(frozenset(parser.names), evaluate)


def _shown(word: str) -> str:
    return repr(word) if word else "its end"


class _Parser:
    """Recursive descent parser. `word` is the next token, empty at the end; `at` is its position, from 1."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._end = 0
        self.names: set[str] = set()
        self.word = ""
        self.at = 1
        self._next()

    def _next(self) -> None:
        rest = self._text[self._end :]
        if not rest.strip():
            self.word, self.at = "", len(self._text) + 1
            return
        match = _TOKEN.match(self._text, self._end)
        if match is None:
            at = len(self._text) - len(rest.lstrip()) + 1
            raise ValueError(f"the formula has an invalid character {rest.lstrip()[0]!r} at character {at}; remove it")
        self.word = match[1] or match[2] or match[3]
        self._end = match.end()
        self.at = self._end - len(self.word) + 1

    def _take(self, word: str) -> None:
        if self.word != word:
            raise ValueError(f"the formula needs {word!r} at character {self.at}, but has {_shown(self.word)} there")
        self._next()

    def sum(self, depth: int) -> Evaluate:
        if depth > MAX_DEPTH:
            raise ValueError(f"the formula is nested deeper than {MAX_DEPTH} levels")
        left = self._product(depth)
        while self.word in ("+", "-"):
            left = self._binary(left, self._product, depth)
        return left

    def _product(self, depth: int) -> Evaluate:
        left = self._signed(depth)
        while self.word in ("*", "/"):
            left = self._binary(left, self._signed, depth)
        return left

    def _signed(self, depth: int) -> Evaluate:
        negative = False
        while self.word in ("+", "-"):
            negative ^= self.word == "-"
            self._next()
        value = self._power(depth)
        return (lambda variables: -value(variables)) if negative else value

    def _power(self, depth: int) -> Evaluate:
        base = self._atom(depth)
        return self._binary(base, lambda deeper: self._signed(deeper + 1), depth) if self.word == "^" else base

    def _binary(self, left: Evaluate, right_side: Callable[[int], Evaluate], depth: int) -> Evaluate:
        apply = _OPERATORS[self.word]
        self._next()
        if depth > MAX_DEPTH:
            raise ValueError(f"the formula is nested deeper than {MAX_DEPTH} levels")
        right = right_side(depth)
        return lambda variables: apply(left(variables), right(variables))

    def _atom(self, depth: int) -> Evaluate:
        word, at = self.word, self.at
        if word == "(":
            self._next()
            inner = self.sum(depth + 1)
            self._take(")")
            return inner
        if word[:1].isdigit() or word[:1] == ".":
            self._next()
            number = float(word)
            return lambda _variables: number
        if not (word[:1].isalpha() or word[:1] == "_"):
            raise ValueError(
                f"the formula needs a number, a name or '(' at character {at}, but has {_shown(word)} there"
            )
        self._next()
        if self.word == "(":
            return self._call(word, at, depth)
        self.names.add(word)
        return lambda variables: variables[word]

    def _call(self, name: str, at: int, depth: int) -> Evaluate:
        if name not in _FUNCTIONS:
            known = ", ".join(_FUNCTIONS)
            raise ValueError(f"the formula calls an unknown function {name!r} at character {at}; use one of {known}")
        self._take("(")
        arguments = [self.sum(depth + 1)]
        while self.word == ",":
            self._next()
            arguments.append(self.sum(depth + 1))
        self._take(")")
        if (len(arguments) > 1) != (name in _SEVERAL):
            needed = "at least two arguments" if name in _SEVERAL else "one argument"
            raise ValueError(f"the formula's function {name!r} at character {at} takes {needed}")
        function = _FUNCTIONS[name]
        return lambda variables: function(*(argument(variables) for argument in arguments))
