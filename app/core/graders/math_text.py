"""Finds the final answer in a text: normalises what people write to ASCII and LaTeX, then extracts the answer.

Every function runs in linear time, so that hostile text needs no time limit here.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Final

LETTER: Final = "A-Za-zÀ-ÖØ-öø-ɏͰ-ϿЀ-ӿ"
"""Letters that join with digits to a name ("x2", "m2"); Chinese, Japanese and Korean text does not."""
AND: Final = r"(?:and|\\?&|und|et|y|e|en|og|och|и)"
"""Words for "and" between two numbers."""

_SYMBOLS: Final = {
    **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d", "-"),
    **dict.fromkeys("\u00a0\u2005\u2006\u2007\u2008\u2009\u200a\u202f", "\\,"),
    **dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\u2060\ufeff", ""),
    **dict.fromkeys("\u2018\u2019\u2032\u066c", "'"),
    **dict.fromkeys("·⋅∙", "\\cdot "),
    **dict.fromkeys("÷\u2044\u2215", "/"),
    **dict.fromkeys("°˚º", "°"),
    **{
        "\u00d7": "\\times ",
        "√": "\\sqrt",
        "π": "\\pi ",
        "∞": "\\infty ",
        "±": "\\pm ",
        "∈": "\\in ",
        "∅": "\\emptyset ",
    },
    **{"≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "\u222a": "\\cup ", "∩": "\\cap "},
    **{"\u301c": "~", "\u2025": "..", "\u2026": "..."},
    **{"\u066b": ".", "\u066a": "%", "。": ". ", "、": ", ", "\u060c": ", ", "負": "-", "负": "-"},
}
_DENIED: Final = (
    r"(?:(?:\b(?i:not|cannot|isn't|can't|n't|nicht|kein|pas|non|não|nie|niet|inte|ikke|не|no es|no son|değil)|不)"
    r"(?: ?(?:be|equal to|equal|è|é|是|等于)(?![A-Za-z]))* ?[$*(]*"
    r"-?\d(?:[\d.,]*\d)?(?:/\d+|%)?(?![\w^\\(]| ?[-+*/^])\)?\$?,?)"
)
"""A number that the text denies: "7, not 5", "it cannot be 5"."""
_REWRITES: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[ \t\r\f\v]+", " "),
        (r"(?<=\n)[-*\u2022] (?=\d)", ""),  # the sign of an item of a list
        (r"\}[\^_]\{", ""),  # a run of superscripts is one exponent, a run of subscripts one index
        (r"(?<![\d)])\*\*|\*\*(?![\d(-])", ""),  # Markdown, not a power
        (r"(?<=10)\*\*(?=-?\d)", "^"),
        (r"\^\{-\}(?=\d)", "-"),  # a superscript minus before a number
        (r"(?<![^\s(=:])[\u2014\u2015](?=[\d$])", "-"),
        (r"\\(?:left|right|displaystyle)(?![A-Za-z])", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"(?<!\\)\\! ?", ""),
        (r"(?<=\d)(?:(?<!\\)\\[,;: ]|\{,\}|~|'|_)(?=\d{3}(?!\d))", ""),  # thousands
        (r"(?<=\d)\{,\}(?=\d)", "."),
        (r"(?<=\d) ?~ ?(?=\d)", " to "),
        (rf"(?<=\d) {AND} (?=\d+ ?/ ?\d|\\frac)", " and "),  # a mixed number
        (r"(?<=[\d.])((?:\d[\u0304\u0305\u0307])+)", r"\\overline{\1}"),
        (r"[\u0304\u0305\u0307]", ""),
        (r"(?<![\d.,(\[{])(\d+),(?=\d*(?:\\(?:bar|overline|dot)(?![a-z])|\(\d+\)|\d ?(?:\.{3}|\\l?dots)))", r"\1."),
        (r"\\dot ?\{?(\d)\}?(\d{0,40})\\dot ?\{?(\d)\}?", r"\\overline{\1\2\3}"),
        (r"(\d\.\d*)(?:\\(?:bar|overline|dot) ?\{? ?(\d+) ?\}?|\((\d+)\)(?![\d(]))", r"\1\\overline{\2\3}"),
        (r"(?<=\d)(\.\d+) ?(?:\.{3,}|\\[lc]?dots(?![A-Za-z]))(?! ?\d)", r"\1\\ldots "),
        (r"(?<!\\)\\[,;: ]|~", " "),
        (r"\\([$%])", r"\1"),
        (r"(?<![" + LETTER + r"])(?:Rs\.?|US|USD|EUR|GBP|INR|CHF|CAD|AUD|CNY|RMB|JPY) ?(?=[\d$])", ""),
        (r" ?\^ ?(?:\{ ?\\circ ?\}|\\circ(?![A-Za-z]))| ?\\degree(?![A-Za-z])", "°"),
        (r"(?<=\d) degrees?\b", "°"),
        (r"(?<=\d) ?(?:(?i:per ?cent|pct|prozent|procent)\b|\\text\{ ?percent\})", "%"),
        (r"(?<![\d)}\]%] )(?<![\d)}\]%])\b(?i:minus|negative) (?=[\d.$])", "-"),
        (r"(?<![\\" + LETTER + r"])pi(?![" + LETTER + "])", r"\\pi"),
        (_DENIED, " "),
    )
)
_SPACED_MINUS: Final = re.compile(r"(?<![\d)}\]%])(?<![\d)}\]%] )[\u2212\ufe63\uff0d]\s+(?=\d)")
"""The minus sign of Unicode is never a dash between words."""
_MINUS_BEHIND: Final = re.compile(
    r"(?<![-\u2212\u0660-\u0669\u06f0-\u06f9.,\u066b\u066c])"
    r"([\u0660-\u0669\u06f0-\u06f9][\u0660-\u0669\u06f0-\u06f9.,\u066b\u066c]*+)[-\u2212\u2010-\u2013](?=[\s.,;!?)\u060c]|$)"
)
"""Text from right to left may have the minus sign behind its number."""
_ANSWER: Final = re.compile(
    r"(?:\b(?i:answer|antwort|respuesta|réponse|resposta|risposta|antwoord|svar|odpowiedź|ответ|cevap)\b"
    r"|答案|答え|정답|उत्तर|الجواب|الإجابة)[^\n.!?\d=:]{0,40}?"
    r"(?:[:=]|\b(?:is|are|ist|es|est|è|é|это)\b|[是为為は은는])[\s:=]*"
)
_SENTENCE_END: Final = re.compile(r"\n|(?<!\bvs)(?<!\br)(?<!\brem)(?<!\bca)(?<!approx)[.!?](?=\s|$)")
_BOX: Final = re.compile(r"\\(?:boxed|fbox)\s*")
_ENVIRONMENT: Final = re.compile(
    r"\$\$(?P<display>[^$]+)\$\$|\$(?P<inline>(?!\s)[^$\n]+(?<!\s))\$(?!\d)"
    r"|\\\[(?P<bracket>[^\\]*(?:\\(?![\[\]])[^\\]*)*)\\\]|\\\((?P<paren>[^\\\n]*(?:\\(?![()])[^\\\n]*)*)\\\)"
)
_JOINED: Final = re.compile(r"\s*(?:,\s*(?:and|or)?|and|or|und|oder|et|ou|y|o)\s*")


def normalise(text: str) -> str:
    """Return the text with ASCII digits, signs and operators and plain LaTeX, without thoughts and group separators."""
    text = text.rpartition("</think>")[2]
    if not text.isascii():
        text = _MINUS_BEHIND.sub(r"-\1", _SPACED_MINUS.sub("-", text))
        text = "".join(map(_ascii, text))
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text.strip()


@lru_cache(maxsize=4096)
def _ascii(char: str) -> str:
    """Return a character's plain form: any script's digits, full-width forms, superscripts and fractions."""
    if char.isascii():
        return char
    if char in _SYMBOLS:
        return _SYMBOLS[char]
    if (digit := unicodedata.decimal(char, None)) is not None:
        return str(digit)
    if unicodedata.category(char) == "Sc":
        return "$" if char == "\uff04" else ""
    match unicodedata.decomposition(char).partition(" ")[0]:
        case "<super>":
            return f"^{{{_compatible(char)}}}"
        case "<sub>":
            return f"_{{{_compatible(char)}}}"
        case "<fraction>":
            return f" {_compatible(char)}"  # 2½ is 2 1/2, not 21/2
        case "<wide>" | "<narrow>" | "<font>":
            return _compatible(char)
    return char


def _compatible(char: str) -> str:
    return unicodedata.normalize("NFKC", char).translate(_COMPATIBLE)


_COMPATIBLE: Final = str.maketrans({"\u2212": "-", "\u2044": "/", "π": "\\pi "})


def last_box(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}`; "" if that box is incomplete, None if there is no box."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    start = boxes[-1].end()
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth <= 0:
            return text[start + 1 : match.start()].strip() if match[0] == "}" and text[start] == "{" else ""
    return ""


def marked_answer(text: str) -> str | None:
    """Return what follows the last `####`, or the last phrase such as "the answer is"; None without either."""
    if "####" in text:
        return trimmed(text.rpartition("####")[2].strip().partition("\n")[0])
    phrases = list(_ANSWER.finditer(text))
    if not phrases:
        return None
    start = phrases[-1].end()
    end = _SENTENCE_END.search(text, start)
    return trimmed(text[start : end.start() if end else len(text)]) or None


def last_formula(text: str) -> tuple[str, int] | None:
    """Return the last LaTeX formula of a text and where it starts.

    Formulas that only "and", "or" or a comma part are joined to a list.
    """
    formulas: list[str] = []
    start = end = 0
    for match in _ENVIRONMENT.finditer(text):
        content = next(group for group in match.groups() if group is not None)
        if not (formulas and _JOINED.fullmatch(text, end, match.start())):
            formulas, start = [], match.start()
        formulas.append(content.strip())
        end = match.end()
    joined = ", ".join(formulas)
    return (joined, start) if joined else None


def trimmed(text: str) -> str:
    """Return a text without white space, punctuation and Markdown around it."""
    return text.strip().rstrip('.,;:!?*_"` ').lstrip('*_"` ').strip()
