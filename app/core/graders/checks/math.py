"""Mathematical equality by math-verify. Never import this where it cannot be killed: it hangs on hostile input."""

import re
from typing import Any, Final

from math_verify import parse, verify

# One line of symbols: no markdown, no words of three letters but the names of functions.
_BARE: Final = re.compile(
    r"(?!.*\*\*)(?!.*(?<![\w\\{])(?!(?:sin|cos|tan|cot|sec|csc|log|exp|sqrt|inf|det|max|min)\b)[^\W\d_]{3,}(?![\w({}]))"
    r"[\w \\{}()\[\]^+\-*/=<>.,;:!|'%]+"
)
_DELIMITED: Final = re.compile(r"\$|\\boxed|\\\(|\\\[")
_NUMERIC: Final = re.compile(r"-?[\d., ]+%?")


def check(reference: str, answer: str) -> dict[str, Any]:
    """Whether the answer is the reference's, or an error when the reference holds no answer or the comparison fails."""
    golds = _parse(reference)
    if not golds:
        return {"error": f"the reference {reference[-80:]!r} holds no mathematical answer"}
    failure = None
    for gold in golds:
        for target in _parse(answer):
            try:
                # None: math-verify's own time-outs are signal.alarm, and ours is a kill from outside.
                if verify(gold, target, timeout_seconds=None, raise_on_error=True):
                    return {"value": True}
            except Exception as error:  # sympy raises anything; that must not pass for a wrong answer
                failure = f"math-verify failed: {type(error).__name__}: {str(error)[:200]}"
    return {"value": False} if failure is None else {"error": failure}


def _parse(text: str) -> list[Any]:
    """math-verify finds LaTeX only between delimiters, and would read a bare `2\\sqrt{3}` as 2."""
    text = text.strip()
    bare = _BARE.fullmatch(text) and not _DELIMITED.search(text) and not _NUMERIC.fullmatch(text)
    found = parse(f"${text}$", parsing_timeout=None) if bare else []
    return list(found or parse(text, parsing_timeout=None))


for _answer in (r"\boxed{\frac{1}{2}}", r"$x^2 + \sqrt{3}$", "the answer is 0.5"):
    check(r"$\frac{2}{4}$", _answer)  # fills the parser's caches, which the workers inherit
