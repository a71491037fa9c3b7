"""Reads numbers as people write them, exactly: fractions, mixed numbers, percentages, powers of ten, separators.

All texts are normalised (`math_text.normalise`).
"""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from math import inf
from typing import Final

from app.core.graders.math_text import AND, LETTER
from app.core.graders.number_words import NUMBER_WORD, read_number_words

_MAX_DIGITS: Final = 1000
_INTEGER: Final = (
    r"(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d{1,2}(?:,\d{2})+,\d{3}(?![\d,])|[1-9]\d{0,2}(?: \d{3})+(?![\d/])|\d+)"
)
_DECIMAL: Final = (
    rf"(?:\d{{1,3}}(?:\.\d{{3}})+,\d+|\d{{1,3}}(?:\.\d{{3}}){{2,}}(?!\d)|{_INTEGER}(?:\.\d+)?|(?<![\d{LETTER}])\.\d+)"
)
_LATEX_FRACTION: Final = r"\\frac ?(?:\{ ?(\d+) ?\}|(?P<top>\d)) ?(?:\{ ?(\d+) ?\}|(\d))"
_EXPONENT: Final = r"(?:\{ ?([+-]?\d{1,4}) ?\}|([+-]?\d{1,4}))"


def _anonymous(pattern: str) -> str:
    """Return a pattern with its groups made anonymous, to be used inside another."""
    return re.sub(r"(?<!\\)\((?!\?)|\(\?P<\w+>", "(?:", pattern)


BODY: Final = (
    rf"(?:{_INTEGER} ?(?:and )?{_anonymous(_LATEX_FRACTION)}|{_anonymous(_LATEX_FRACTION)}"
    rf"|(?:{_INTEGER} (?:and )?)?{_INTEGER} ?/ ?\d+(?![\d.,]*\d?/)"
    rf"|(?:{_INTEGER}|(?<![\d{LETTER}]))\.\d*(?:\\overline\{{\d+\}}|\\ldots ?)"
    rf"|{_DECIMAL}(?: ?(?:\\times|\\cdot|\*|x) ?10 ?\^ ?{_anonymous(_EXPONENT)})"
    rf"|{_DECIMAL}[eE][+-]?\d{{1,4}}(?!\d)"
    rf"|\d+ ?\^ ?{_anonymous(_EXPONENT)}"
    rf"|{_DECIMAL})"
)
"""Pattern of a number without its sign."""
_SCALES: Final[dict[str, int | Fraction]] = {
    **{"dozen": 12, "hundred": 10**2, "thousand": 10**3, "lakh": 10**5, "million": 10**6, "crore": 10**7},
    **{"billion": 10**9, "trillion": 10**12, "bn": 10**9, "mn": 10**6, "mio": 10**6, "mrd": 10**9},
    **dict.fromkeys(("tausend", "mil", "mille", "mila", "duizend", "tysiąc", "tysiące", "tysięcy"), 10**3),
    **dict.fromkeys(("тыс", "тысяча", "тысячи", "тысяч", "हज़ार", "हजार"), 10**3),
    **dict.fromkeys(("millionen", "millón", "millone", "milione", "milioni", "milhão", "milhõe", "miljoen"), 10**6),
    **dict.fromkeys(("milion", "miliony", "milionów", "milyon", "млн", "миллион", "миллиона", "миллионов"), 10**6),
    **dict.fromkeys(("milliard", "milliarde", "milliarden", "miliardo", "miliardi", "miljard", "milyar"), 10**9),
    **dict.fromkeys(("miliard", "miliardy", "miliardów", "млрд", "миллиард", "миллиарда", "миллиардов"), 10**9),
    **{"लाख": 10**5, "करोड़": 10**7, "ألف": 10**3, "مليون": 10**6, "مليار": 10**9},
    **{"百": 10**2, "千": 10**3, "백": 10**2, "천": 10**3, "万": 10**4, "萬": 10**4, "만": 10**4},
    **{"亿": 10**8, "億": 10**8, "억": 10**8, "‰": Fraction(1, 1000)},
}
_LETTER_SCALES: Final = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9}
SCALE: Final = rf"[ -]?(?i:{'|'.join(sorted(_SCALES, key=len, reverse=True))})s?(?![{LETTER}])"
SUFFIX: Final = rf"(?P<mark> ?[%°])?(?P<scale>{SCALE})?"
"""Pattern of what may follow a number and belongs to it."""
_UNIT_WORD: Final = r"[^\W\d_]+(?:\^?(?:\{-?\d\}|-?\d))?"
_UNIT: Final = (
    rf"(?:(?: ?/ ?| |-|\()?{_UNIT_WORD}(?:(?:[ /.,;)('-]|\\cdot )+{_UNIT_WORD})*[.)]*"
    rf"|(?:[ /]{{0,3}}\\(?:text|mathrm|mbox|textrm) ?\{{[^{{}}\d]*\}}(?:\^\{{?-?\d\}}?)?)+)"
)
CHANGE: Final = (
    r"(?:(?:and )?(?:a|one|two|three) (?:half|halves|third|quarter|fifth|tenth)|squared|cubed|factorial"
    r"|halves|thirds|fourths|fifths|sixths|eighths|ninths|tenths|hundredths|thousandths|remainder|mod"
    r"|\(?(?:in )?(?:binary|octal|hex|hexadecimal|base(?= \d)))s?\b"
)
"""Words behind a number that change it: "2 and a half" is not 2."""
_SIGN: Final = (
    rf"(?:\+|(?<![{LETTER}\d)}}\]%°])(?<![\d)}}\]] )-(?=[\d.$\\])"
    r"|(?<=[=(:,\[{])-(?= \d)|(?<=[=(:,\[{] )-(?= \d))"
)
"""A minus sign belongs to the number unless an operand precedes it: "5-3" ends in 3, "x = -3" in -3."""
_NUMBER: Final = re.compile(
    rf"(?:[{LETTER}]{{0,3}}\$ ?)?(?P<sign>[+-] ?)?\$?(?P<body>{BODY}){SUFFIX}"
    rf"(?P<letter>[kKMB](?![{LETTER}]))?(?P<unit>{_UNIT})?[ .$]*"
)
_TOKEN: Final = re.compile(
    rf"(?P<skipped>(?<![{LETTER}])(?:(?i:step|equation|eq|figure|exercise)s?\.? ?\d+"
    rf"|(?<!\\)[{LETTER}]++(?:[\^_] ?\{{? ?-?\w+ ?\}}?|\d[\w.]*)"
    rf"|(?<![\\\d_{LETTER}])(?:[A-Z]|[{LETTER}]{{2,}}+)-\d[\w.]*)|^ *\d+[.)] +(?=\S))"
    rf"|(?<!\d)(?<!\d[.,:])(?P<sign>{_SIGN} ?)?\$?"
    rf"(?P<body>(?<![(\[{{])\d+,(?:\d{{1,2}}|\d{{4,}})(?![\d,])|{BODY}){SUFFIX}(?:[kKMB](?![{LETTER}]))?"
    rf"(?![.,:]?\d)(?P<term>(?=[abcpqruvwR](?![{LETTER}])|h\d| ?(?:"
    rf"\(? ?\\?[pb]?mod\b|\\(?:pi|sqrt|frac|infty|pm)|[inxyz](?![{LETTER}])|\^|_\{{?\d|{CHANGE})))?"
    rf"|(?:\\(?:sqrt|pm)|\+/?-|[\^_]|[{LETTER})}}] ?/) ?[{{(]?[\d,.:]*\d"
    rf"|\d[\d.,:]*",
    re.MULTILINE,
)
"""What looks like a number, and the number in it if it is one by itself."""
_SPLIT_UNIT: Final = (
    "days?|weeks?|months?|years?|yrs?|pounds?|lbs?|stone|yards?|yds?|gallons?|gal|quarts?|qt|pints?|cups?|dollars?"
    "|euros?|rupees?|km|m|cm|kg|miles?|dozen"
)
"""Units that a smaller unit follows: "5 pounds 3 ounces"."""
_RESULT_VERBS: Final = (
    "is|equals?|equal|rounds?|rounded|up|down|out|back|close|simplif(?:y|ies|ied)|reduces?d?|comes?|evaluates?d?|amounts"
    "|adds?|sums|leads|converts?|boils|corresponds"
)
"""Words that make "to" name a result ("5.7 rounds to 6"), not a range ("5 to 6")."""
_PART: Final = re.compile(
    rf"(?:[\d)}}%°] ?(?:[*/x]|\\(?:times|cdot)|or|by|out of) ?|\bmod ?\(?|\d-\d\d?-|\bbetween [^.]{{1,20}} and "
    r"|(?:[<>≠]=?|!=|\\(?:neq?|geq?|leq?|gt|lt)) ?"
    rf"|(?<![{LETTER}])\\?(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt) ?[({{]? ?|(?<![{LETTER}])[{LETTER}]\("
    r"|[}\]]\{|\\(?:overline|bar) ?\{|\.\(|\||-\(|\d'|\d ?(?:h|hours?|hrs?|feet|foot|ft|min|minutes?),? (?:and )?"
    rf"|\d ?(?:{_SPLIT_UNIT}) (?:and )?"
    rf"|\d ?[%°]?(?: ?[^\W\d_]{{2,}}){{1,3}},? (?:{AND}|plus) "
    rf"|(?:^|[:=.\n]|\b(?:is|are|has|have)\b) ?\d[\d.,]* [^\W\d_]{{2,}}, "
    rf"|(?:\d|(?<![{LETTER}])(?:{NUMBER_WORD})) {AND} (?:an? )?"
    r"|\d ?[%°]?,? ?(?:with |and )?(?:an? )?(?:(?i:remainder|rem|reste?|resto|r)\b\.?(?: of| is)?|余)[ :=]{0,3}"
    rf"|\d ?[%°$]?(?: ?(?!(?:{_RESULT_VERBS})\b)[^\W\d_]+)? "
    r"(?:to|through|thru|until|till|bis|à|al|até|tot|до|vs\.?|versus) "
    r"|\d (?:a|by) |\d ?\.{2,} ?|\bbase "
    r")\$?$"
)
"""What stands before a number that is a part of a term, a range or a choice: "2 + 3", "log 2", "4 or 5", "x > 5"."""
_REACH: Final = 50
_DELIMITER: Final = re.compile(r"\\[()\[\]]|(?<=\d)\$|\\text ?\{([^{}]*)\}")
"""What surrounds formulas and the words in them."""
_FRACTION: Final = re.compile(r"\d+ ?/|\\frac")
_OPERAND: Final = re.compile(r"[\d)}] ?[+-] ?\$?$")
"""What stands before a fraction that is a part of a mixed number: "2-1/2", "2 + 1/2"."""
_SCALE_TEXT: Final = re.compile(rf"\\(?:text|mathrm|mbox|textrm) ?\{{({SCALE}[^{{}}]*)\}}")
_REMARK: Final = re.compile(
    rf"\((?! ?\\?[pb]?mod\b|(?:in )?(?:{SCALE}|base|binary|octal|hex))(?=[^()]*[{LETTER}]{{2}})[^()]*\)"
)
_DIGIT: Final = re.compile(r"\d")
_DECIMAL_COMMA: Final = re.compile(r"\d+,(?:\d{1,2}|\d{4,})")
_EUROPEAN: Final = re.compile(r"\d{1,3}(?:\.\d{3})+,\d+")
_ENDLESS: Final = re.compile(r"(?P<digits>.*?)(?:\\overline\{(?P<period>\d+)\}|\\ldots ?)")
_REPEATED: Final = re.compile(r"(?P<head>\d{0,12}?)(?:(?P<one>\d)(?P=one){2,}|(?P<many>\d{2,12}?)(?P=many)+)")
_BASED: Final = re.compile(r"(?P<sign>-?)\(?(?P<digits>(?=[A-Z]*\d)[\dA-Z]+)\)?_ ?\{? ?(?P<base>\d{1,2}) ?\}?")
_POWER: Final = re.compile(rf"(\d+) ?\^ ?{_EXPONENT}")
_TIMES_TEN: Final = re.compile(r"[eE]| ?(?:\\times|\\cdot|\*|x) ?10 ?\^ ?")
_SHORT_FRACTION: Final = re.compile(r"\\frac ?(\d)(\d)")
_GROUPING: Final = re.compile(r"(?<=\d)[, ](?=\d{3}(?!\d))")
_COEFFICIENT: Final = re.compile(r"[a-ik-z]|[abcnpqruvwxyz]{2,3}", re.IGNORECASE)
"""Letters that directly follow a number and are more likely variables than a unit."""
_CHANGES: Final = re.compile(
    r"\b(?:half|third|quarter|and|or|times|plus|minus|over|score|to|of|divided|not|million"
    r"|vs|versus|through|until|till|bis)\b"
    rf"|\b{CHANGE}|\b[abnpqrtuvwxyzR]\^?\{{?\d",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Number:
    """A real number and how it is written."""

    value: Fraction
    """Of a percentage, the number before the sign: 50 of "50%"."""
    places: float
    """Digits behind the decimal point; infinite if the decimal expansion does not end."""
    is_decimal: bool = False
    """Whether it has a decimal point, so that it may be a rounded number."""
    mark: str = ""
    """`%`, `°` or nothing."""
    is_cut: bool = False
    """Whether more digits follow, which are not written: "3.14..."."""


def read_number(text: str, *, is_answer: bool = False) -> Number | None:
    """Return the number that the whole text is, apart from a currency and a unit; None if it is anything else.

    Only with `is_answer`, "3,5" is read as 3.5 and "1.5k" as 1500: a reference could mean two numbers, or a variable.
    """
    text = _SCALE_TEXT.sub(r"\1", text.strip())
    if len(text) > _MAX_DIGITS:
        return None
    if (spelled := read_number_words(text)) is not None:
        return _exact(spelled)
    if based := _BASED.fullmatch(text):
        return _read_based(based)
    match = _NUMBER.fullmatch(text)
    if match is None and is_answer and text.count(",") == 1:
        match = _NUMBER.fullmatch(text.replace(",", "."))
    if (
        match is None
        or (match["letter"] and not is_answer)
        or _changes_value(match["unit"] or "", degrees=(match["mark"] or "").strip() == "°")
    ):
        return None
    number = _number(match)
    return number and (_exact(number.value * _LETTER_SCALES[match["letter"]]) if match["letter"] else number)


def last_number(text: str) -> str:
    """Return the last number of a text; empty if there is none, or if it is part of a term such as "2x" or "3:4".

    Units ("m^2"), names ("x_1"), labels ("step 2") and remarks in parentheses are skipped.
    """
    text = without_remarks(_SCALE_TEXT.sub(r"\1", text))
    tokens = [match for match in _TOKEN.finditer(text) if not match["skipped"]]
    if not tokens or tokens[-1]["body"] is None or tokens[-1]["term"] is not None:
        return ""
    if is_part(text, tokens[-1].start()) or is_part(text, tokens[-1].start("body")):
        return ""
    if _FRACTION.match(tokens[-1]["body"]) and _OPERAND.search(text[: tokens[-1].start("body")][-_REACH:]):
        return ""
    return tokens[-1][0].strip() if _number(tokens[-1]) else ""


def without_remarks(text: str) -> str:
    """Return a text without its remarks in parentheses, unless they hold all of its numbers."""
    bare = _REMARK.sub(" ", text)
    return bare if _DIGIT.search(bare) else text


def is_part(text: str, start: int) -> bool:
    """Return whether the number at `start` is only a part of what the text says: "2 + 3", "4 or 5", "2 h 30 min"."""
    before = _DELIMITER.sub(r"\1", text[max(0, start - _REACH) : start])
    return bool(_PART.search(before.replace("  ", " ")))


def _changes_value(unit: str, *, degrees: bool) -> bool:
    if unit.strip() in ("C", "F") and degrees:
        return False
    return bool(_CHANGES.search(unit) or (unit[:1].isalpha() and _COEFFICIENT.fullmatch(unit)))


def _number(match: re.Match[str]) -> Number | None:
    """Return the number of a match with the groups `sign`, `body`, `mark` and `scale`; None for a division by 0."""
    try:
        number = _read_body(match["body"].strip())
    except (ZeroDivisionError, OverflowError, ValueError):
        return None
    if match["scale"] and number.is_cut:
        return None
    if match["scale"]:
        number = _exact(number.value * _SCALES[match["scale"].strip(" -").lower().removesuffix("s")])
    value = number.value * (-1 if "-" in (match["sign"] or "") else 1)
    return replace(number, value=value, mark=(match["mark"] or "").strip())


def _read_based(match: re.Match[str]) -> Number | None:
    try:
        value = int(match["digits"], int(match["base"]))
    except ValueError:  # no such base, or a digit that the base does not have
        return None
    return Number(Fraction(-value if match["sign"] else value), 0)


def _read_body(body: str) -> Number:
    if endless := _ENDLESS.fullmatch(body):
        whole, _, decimals = _with_point(endless["digits"].replace(" ", "")).partition(".")
        if endless["period"]:
            return Number(_repeating(whole, decimals, endless["period"]), inf)
        return Number(Fraction(f"{whole or 0}.{decimals}"), len(decimals), is_decimal=True, is_cut=True)
    if "\\frac" in body or "/" in body:
        return _exact(_read_fraction(body))
    if power := _POWER.fullmatch(body):
        base, exponent = power[1], int(power[2] or power[3])
        if len(base) * abs(exponent) > 10 * _MAX_DIGITS:
            raise OverflowError
        return _exact(Fraction(int(base)) ** exponent)
    mantissa, *powers = _TIMES_TEN.split(body)
    mantissa = _with_point(mantissa.replace(" ", ""))
    exponent = int(powers[0].strip("{} ")) if powers else 0
    places = max(0, len(mantissa.partition(".")[2]) - exponent)
    return Number(Fraction(mantissa) * Fraction(10) ** exponent, places, is_decimal="." in mantissa)


def _repeating(whole: str, decimals: str, period: str) -> Fraction:
    """Return the value of a decimal whose last digits repeat without end: "1", "2", "3" is 1.2333..."""
    start = Fraction(f"{whole or 0}.{decimals or 0}")
    return start + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(decimals))


def _read_fraction(body: str) -> Fraction:
    """Return a fraction or a mixed number; ValueError if the part behind the whole number is 1 or more."""
    if short := _SHORT_FRACTION.search(body):
        body = f"{body[: short.start()]} {short[1]} {short[2]}"
    *whole, top, bottom = (int(digits) for digits in re.findall(r"\d+", _GROUPING.sub("", body)))
    if whole and top >= bottom:
        raise ValueError("not a mixed number")
    return sum(whole) + Fraction(top, bottom)


def _with_point(digits: str) -> str:
    """Return a decimal with a point and without group separators: 1,234.5 and 1.234,5 are 1234.5."""
    if _DECIMAL_COMMA.fullmatch(digits) or _EUROPEAN.fullmatch(digits):
        return digits.replace(".", "").replace(",", ".")
    if digits.count(".") > 1:
        return digits.replace(".", "")
    return digits.replace(",", "")


def _exact(value: Fraction) -> Number:
    rest, places = value.denominator, 0
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest, count = rest // prime, count + 1
        places = max(places, count)
    return Number(value, places if rest == 1 else inf)


def same_number(reference: Number, answer: Number) -> bool:
    """Return whether two numbers are equal; "50%" equals 0.5 and 50, and "90°" equals 90.

    A decimal also equals the number that it is rounded from, if that number has no end or at least three more decimal
    places, and if the decimal is a reference of three significant digits (3.14) or an answer of six decimal places.
    """
    if reference.mark != answer.mark and "%" in (reference.mark, answer.mark):
        return reference.value == answer.value or _equal(_as_share(reference), _as_share(answer))
    return _equal(reference, answer)


def _as_share(number: Number) -> Number:
    if number.mark != "%":
        return number
    return replace(number, value=number.value / 100, places=number.places + 2, is_decimal=True)


def _equal(reference: Number, answer: Number) -> bool:
    if reference.is_cut or answer.is_cut:
        return _continues(answer, reference) if answer.is_cut else _continues(reference, answer)
    if reference.value == answer.value:
        return True
    rounded_reference = reference.is_decimal and _significant_digits(reference) >= 3
    return (rounded_reference and _is_rounded(reference, answer)) or (
        answer.is_decimal and answer.places >= 6 and _is_rounded(answer, reference)
    )


def _continues(cut: Number, exact: Number) -> bool:
    """Return whether the exact number continues the digits of a cut one.

    That is the repetition of its last digits (0.1666... is 1/6), or any number if six decimal places agree.
    """
    if exact.is_cut:
        return (cut.value, cut.places) == (exact.value, exact.places)
    sign, places = -1 if cut.value < 0 else 1, int(cut.places)
    whole, decimals = divmod(abs(int(cut.value * 10**places)), 10**places)
    repeated = _REPEATED.fullmatch(str(decimals).zfill(places))
    if repeated and exact.value == sign * _repeating(str(whole), repeated["head"], repeated["one"] or repeated["many"]):
        return True
    return places >= 6 and exact.places >= places + 3 and 0 < sign * (exact.value - cut.value) < Fraction(1, 10**places)


def _significant_digits(decimal: Number) -> int:
    return len(str(abs(int(decimal.value * 10 ** int(decimal.places)))))


def _is_rounded(decimal: Number, exact: Number) -> bool:
    if exact.places < decimal.places + 3:
        return False
    return abs(decimal.value - exact.value) <= Fraction(1, 2 * 10 ** int(decimal.places))
