"""Finds the final answer of a text and compares two answers: numbers, lists, ratios and words, exactly.

What is none of these, such as `2\\sqrt{3}`, is left to a computer algebra system, which the caller passes.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from app.core.graders.math_text import LETTER, last_box, last_formula, marked_answer, normalise, trimmed
from app.core.graders.numbers import CHANGE, SCALE, is_part, last_number, read_number, same_number, without_remarks

_MAX_ELEMENTS: Final = 64
_SEPARATORS: Final = (
    re.compile(r"\s*;\s*|\s*,?\s*\\text\{ ?(?:and|or) ?\}\s*|\s*,?\s+(?:and|or)\s+"),
    re.compile(r",\s+"),
    re.compile(r","),
)
_BRACKET: Final = re.compile(r"\\?[(\[{]|\\?[)\]}]")
_RATIO: Final = re.compile(r"\d{1,20}(?:(?: ?: ?| to )\d{1,20})+|\d{1,4}([-/.])\d{1,4}\1\d{1,4}")
"""A ratio, a time or a date."""
_BASED: Final = re.compile(r"-?\(?\d[\dA-Za-z]*\)?_.+")
"""A number in another base."""
_NAME: Final = (
    r"\\?[A-Za-z]+(?:_\{?\w+\}?)?'?(?:\([^()=]*\))?|\\text ?\{[^{}=]*\}|\\angle ?[A-Z]+|\((?:[a-z], ?)+[a-z]\)"
)
_CALCULATION: Final = r"(?:\\(?:times|cdot|frac)(?![A-Za-z])|[\d\s+\-*/^().,%{}])+"
_ASSIGNMENT: Final = re.compile(rf"(?P<name>{_NAME}|{_CALCULATION}) ?= ?(?P<value>[^=<>]+)")
_ABOUT: Final = re.compile(r"^\s*(?:\\(?:approx|simeq|sim)(?![A-Za-z])|[≈≃])")
_EQUALS: Final = re.compile(r"(?<![<>!])=")
_TEXT_COMMAND: Final = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox) ?\{([^{}]*)\}")
_EXPONENT: Final = re.compile(r"\^ ?\{? ?-?\d+")
_GLUED: Final = re.compile(r"(?<=\d) (?=[A-Za-z]+$)")
_WORDS: Final = re.compile(r"[^\W\d_]|(?=.*[^\W\d_]{2})[^\W\d_]+(?:[ '-]+[^\W\d_]+)*")
_FUNCTIONS: Final = "sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt"
_PIECE: Final = re.compile(
    rf"(?P<skipped>(?<![{LETTER}\\])(?!(?:{_FUNCTIONS})\d)[{LETTER}]{{2,}}+(?:[\^_] ?\{{? ?-?\w+ ?\}}?|-?\d\w*))"
    rf"|(?:\\[A-Za-z]+|(?<![{LETTER}])(?:{_FUNCTIONS}|[b-zB-HJ-Z])(?![{LETTER}'])"
    rf"|(?<=[\d)}}])[A-Za-z]{{1,3}}(?![{LETTER}])|(?<=[\d)}}%°]) ?,? ?(?:and|or) (?=[\d(\\$-]|[A-Za-z] ?=)"
    r"|(?<=\d) : (?=\d)|\\[^A-Za-z\s]|[.:;!](?=\S)|[\d\s{}()\[\]^_+\-*/=<>,|'%°$])+"
)
"""The longest parts of a text that consist of symbols; a point or colon before a space ends one."""

_CONTENT: Final = re.compile(r"\d|\\(?!text)[A-Za-z]")
_WORD: Final = re.compile(
    rf"(?<![\w\\{{])(?!(?:{_FUNCTIONS}|and|or)(?![{LETTER}]))[^\W\d_]{{2,}}(?![({{}}])|[^\x00-\x7f\u0370-\u03ff°]"
)
_CHANGE: Final = re.compile(rf" ?{CHANGE}")
_SCALE: Final = re.compile(SCALE)
_HALF_DAY: Final = re.compile(r" ?(?P<half>[ap])\.? ?m\b", re.IGNORECASE)
_TIME: Final = re.compile(rf"(\d{{1,2}}(?::\d\d)?)(?:{_HALF_DAY.pattern}\.?)?", re.IGNORECASE)
_DENIAL: Final = re.compile(r"not\b")
_MAX_EXPRESSION: Final = 1000

Algebra = Callable[[str, str], bool]
"""Compares a reference with an answer; both are expressions in LaTeX."""


class NeedsAlgebra(Exception):
    """The comparison needs computer algebra, and the caller passed none."""


def final_answer(text: str) -> str:
    """Return the final answer of a text, normalised; empty if it has none.

    That is the last box, else what follows `####` or a phrase such as "the answer is", else the last formula of the
    text or its last expression. An expression is not evaluated here.
    """
    text = normalise(text)
    box = last_box(text)
    if box is not None:
        return box
    text = marked_answer(text) or trimmed(text)
    formula = last_formula(text)
    if formula is not None:
        content, start = formula
        return text if is_part(text, start) else content
    whole = read_number(text) or _words(text) or _DENIAL.match(text) or _is_expression(text)
    return text if whole else _last_piece(text)


def final_number(text: str) -> str:
    """Return the number in the last box, else the number that an answer is said to be, else the last number.

    Empty if there is none; a box that holds anything else than a number has none.
    """
    text = normalise(text)
    box = last_box(text)
    for marked in (marked_answer(text), trimmed(text)) if box is None else (box,):
        _, value = _assignment(_unwrapped(marked or ""))
        if read_number(value, is_answer=True):
            return value
        if _DENIAL.match(value):
            return ""
    return last_number(text) if box is None else ""


def _is_expression(text: str) -> bool:
    return len(text) <= _MAX_EXPRESSION and "\n" not in text and not _WORD.search(text)


def _last_piece(text: str) -> str:
    """Return the last expression of a sentence, or the whole text if what stands around it changes its value."""
    text = without_remarks(text)
    pieces = [match for match in _PIECE.finditer(text) if not match["skipped"] and _CONTENT.search(match[0])]
    end = pieces[-1].end() if pieces else 0
    if not pieces or _CHANGE.match(text, end - pieces[-1][0].endswith(" ")):
        return text
    piece = pieces[-1][0].lstrip()
    if not piece.startswith("=") and is_part(text, end - len(piece)):
        return text
    rest = _SCALE.match(text, end) or _HALF_DAY.match(text, end)
    piece = trimmed(piece + (rest[0] if rest else "")).removeprefix("=").strip()
    return text if piece.startswith(("+", "*", "/", "^", "- ")) else piece


def equal(reference: str, answer: str, algebra: Algebra | None = None) -> bool:
    """Return whether two normalised answers are equal. Raises NeedsAlgebra if that needs `algebra`."""
    reference, answer = _unwrapped(reference), _unwrapped(answer)
    if _GLUED.sub("", reference) == _GLUED.sub("", answer):
        return True
    name, right = _assignment(reference)
    other_name, given = _assignment(answer)
    if name != other_name and len(name) == len(other_name) == 1:
        return False
    verdict = _compare_plain(right, given)
    if verdict is not None:
        return verdict
    expected, found = _elements(right), _elements(given)
    if expected and found:
        return _same_elements(expected, found, algebra)
    if (expected and read_number(given)) or (found and read_number(right)):
        return False
    if _has_two_quantities(given):
        return False
    if _EQUALS.search(given) and not _EQUALS.search(right):
        return False  # an equation that assigns nothing: "2x = 6" is not 6
    if algebra is None:
        raise NeedsAlgebra
    return algebra(reference, answer) if name and other_name else algebra(right, given)


def _compare_plain(reference: str, answer: str) -> bool | None:
    """Compare numbers, ratios and words; None if the two are something else."""
    number, answer_number = read_number(reference), read_number(answer, is_answer=True)
    if number and answer_number:
        return same_number(number, answer_number)
    words, answer_words = _words(reference), _words(answer)
    if words or answer_words:
        return words == answer_words
    if _BASED.fullmatch(reference) or _BASED.fullmatch(answer):
        return _digits_and_base(reference) == _digits_and_base(answer)
    time, answer_time = _TIME.fullmatch(reference), _TIME.fullmatch(answer)
    if time and answer_time and (half := time["half"]):
        return (time[1], half.lower()) == (answer_time[1], (answer_time["half"] or "").lower())
    if _RATIO.fullmatch(reference) or _RATIO.fullmatch(answer):
        return _ratio(reference) == _ratio(answer)
    return None


def _unwrapped(text: str) -> str:
    """Return an answer without dollar signs, and without a text or font command around all of it."""
    text = _ABOUT.sub("", text.replace("$", "")).strip()
    command = _TEXT_COMMAND.fullmatch(text)
    return command[1].strip() if command else text


def _assignment(text: str) -> tuple[str, str]:
    """Return the name and the value of `x = 3`; an empty name if the text assigns nothing."""
    match = _ASSIGNMENT.fullmatch(text.strip())
    return (match["name"].strip(), match["value"].strip()) if match else ("", text.strip())


def _has_two_quantities(text: str) -> bool:
    """Return whether words part two numbers ("5 apples and 3 pears"); math-verify would read the first one alone."""
    words = _TEXT_COMMAND.search(text)
    if words is None or not any(char.isalpha() for char in words[1]):
        return False
    return any(char.isdigit() for char in text[: words.start()]) and any(
        char.isdigit() for char in _EXPONENT.sub("", text[words.end() :])
    )


def _words(text: str) -> str:
    """Return words or a letter in one form: "(B)" is "B", "No  solution." is "no solution"; empty for other text."""
    text = " ".join(trimmed(_TEXT_COMMAND.sub(r" \1 ", text)).split())
    if text[:1] + text[-1:] in ("()", "[]", "{}"):
        text = text[1:-1].strip()
    if not _WORDS.fullmatch(text):
        return ""
    return text if len(text) == 1 else text.casefold()


def _digits_and_base(text: str) -> str:
    return re.sub(r"\\text|[(){} ]", "", text)


def _ratio(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", text)] if _RATIO.fullmatch(text) else []


@dataclass(frozen=True)
class _Elements:
    """The elements of a list, a set, a tuple or an interval."""

    brackets: str
    """`()`, `[]`, `(]`, `[)`, `{}`, or nothing."""
    texts: list[str]


def _elements(text: str) -> _Elements | None:
    """Return the elements of a list of two or more; None if the text is no list."""
    if match := re.fullmatch(r"\\pm ?(\S.*)", text):
        return _Elements("", [match[1], f"-{match[1]}"])
    brackets = _outer_brackets(text)
    if brackets:
        text = text.removeprefix("\\")[1:-1].removesuffix("\\")
    texts = [element for element in _split(text.strip(), _SEPARATORS) if element]
    return _Elements(brackets, texts) if 1 < len(texts) <= _MAX_ELEMENTS else None


def _outer_brackets(text: str) -> str:
    """Return the brackets that enclose the whole text; none for "(1, 2) \\cup (3, 4)"."""
    depth = 0
    for match in _BRACKET.finditer(text):
        depth += 1 if match[0][-1] in "([{" else -1
        if depth == 0:
            brackets = text.removeprefix("\\")[:1] + text[-1:]
            return brackets if match.end() == len(text) and brackets in ("()", "[]", "(]", "[)", "{}") else ""
        if match.start() and depth == 1:
            return ""
    return ""


def _split(text: str, separators: tuple[re.Pattern[str], ...]) -> list[str]:
    """Split at the separators outside of brackets; the commas of "1,234" part no numbers."""
    if not separators or (separators[0] is not _SEPARATORS[0] and read_number(text)):
        return [text]
    depths = _depths(text)
    texts, start = [], 0
    for match in separators[0].finditer(text):
        if depths[match.start()] == 0:
            texts.append(text[start : match.start()])
            start = match.end()
    texts.append(text[start:])
    return [part for piece in texts for part in _split(piece.strip(), separators[1:])]


def _depths(text: str) -> list[int]:
    """Return the number of open brackets at each position."""
    depths, depth = [], 0
    for char in f"{text} ":
        depths.append(depth)
        depth += (char in "([{") - (char in ")]}")
    return depths


def _same_elements(reference: _Elements, answer: _Elements, algebra: Algebra | None) -> bool:
    """Compare in order if one of them is a tuple or an interval, else in any order."""
    if reference.brackets and answer.brackets and reference.brackets != answer.brackets:
        return False
    if not {reference.brackets, answer.brackets} <= {"", "{}"}:
        if len(reference.texts) != len(answer.texts):
            return False
        return all(equal(*pair, algebra) for pair in zip(reference.texts, answer.texts, strict=True))
    expected, found = dict.fromkeys(reference.texts), dict.fromkeys(answer.texts)
    if len(expected) != len(found):
        return False
    for text in expected:
        match = next((candidate for candidate in found if equal(text, candidate, algebra)), None)
        if match is None:
            return False
        del found[match]
    return True
