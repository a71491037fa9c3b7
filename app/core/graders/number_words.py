"""Reads English number words exactly: "forty-two", "two hundred and five", "minus one half", "two and a half"."""

import re
from fractions import Fraction
from typing import Final

_ONES: Final = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_SMALL: Final = {word: value for value, word in enumerate(_ONES)}
_TENS: Final = {
    word: 10 * value
    for value, word in enumerate(("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), 2)
}
_THOUSANDS: Final = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS: Final = {
    **{"half": 2, "halves": 2, "quarter": 4, "quarters": 4},
    **{
        word + plural: value
        for value, word in enumerate(("third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"), 3)
        for plural in ("", "s")
    },
}
NUMBER_WORD: Final = "|".join([*_ONES, *_TENS, "hundred", *_THOUSANDS])
"""Pattern of one number word."""
_NUMBER: Final = re.compile(
    rf"(?P<sign>(?:minus|negative) )?(?P<words>(?:a|an|{NUMBER_WORD})(?:(?:-|,? (?:and )?)(?:{NUMBER_WORD}))*?)"
    rf"(?:(?: and (?P<top>an?|{NUMBER_WORD}))?[ -](?P<part>{'|'.join(_PARTS)}))?"
)
_MAX_LENGTH: Final = 200


def read_number_words(text: str) -> Fraction | None:
    """Return the number that the whole text spells; None if it is anything else, such as "five six"."""
    match = _NUMBER.fullmatch(text.lower()) if len(text) <= _MAX_LENGTH else None
    if match is None:
        return None
    value = _whole(re.split(r"[-, ]+", match["words"]), is_counted=bool(match["part"]) and not match["top"])
    if value is None:
        return None
    number = Fraction(value)
    if match["part"]:
        top = _SMALL.get(match["top"] or "", 1)
        share = Fraction(top, _PARTS[match["part"]])
        if match["top"] and share >= 1:
            return None
        number = value + share if match["top"] else value * share
    return -number if match["sign"] else number


def _whole(words: list[str], *, is_counted: bool) -> int | None:
    """Return the value of the words of an integer, or None if they are not in the order of one.

    "a" is 1 before a scale ("a hundred"), and with `is_counted` before a part ("a half").
    """
    if words[0] in ("a", "an"):
        if not (is_counted if len(words) == 1 else words[1] == "hundred" or words[1] in _THOUSANDS):
            return None
        words = ["one", *words[1:]]
    total, group, limit, last_scale = 0, 0, 10**3, 10**15
    for word in words:
        if word == "and":
            continue
        if word in _THOUSANDS:
            scale = _THOUSANDS[word]
            if not group or scale >= last_scale:
                return None
            total, group, limit, last_scale = total + group * scale, 0, 10**3, scale
        elif word == "hundred":
            if not 0 < group < 100:
                return None
            group, limit = group * 100, 100
        else:
            value, next_limit = (_TENS[word], 10) if word in _TENS else (_SMALL[word], 1)
            if value >= limit or (value == 0 and len(words) > 1):
                return None
            group, limit = group + value, next_limit
    return total + group
