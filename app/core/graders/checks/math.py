"""Mathematical equality by math-verify. Import this only in a killable process: it hangs on hostile input."""

import re
from typing import Any, Final

from math_verify import parse, verify

# One line of symbols: no Markdown, and no words of three or more letters except function names.
_BARE: Final = re.compile(
    r"(?!.*\*\*)(?!.*(?<![\w\\{])(?!(?:sin|cos|tan|cot|sec|csc|log|exp|sqrt|inf|det|max|min)\b)[^\W\d_]{3,}(?![\w({}]))"
    r"[\w \\{}()\[\]^+\-*/=<>.,;:!|'%]+"
)
_DELIMITED: Final = re.compile(r"\$|\\boxed|\\\(|\\\[")
_NUMERIC: Final = re.compile(r"-?[\d., ]+%?")


def check(reference: str, answer: str) -> dict[str, Any]:
    """Return whether the answer equals the reference; an error if the reference has none or the comparison fails."""
    golds = _parse(reference)
    if not golds:
        return {"error": f"the reference {reference[-80:]!r} contains no mathematical answer"}
    failure = None
    for gold in golds:
        for target in _parse(answer):
            try:
                # None switches off math-verify's own time-outs, which use signal.alarm; the pool kills from outside.
                if verify(gold, target, timeout_seconds=None, raise_on_error=True):
                    return {"value": True}
            except Exception as error:  # sympy raises all kinds of exceptions; they must not count as a wrong answer
                failure = f"math-verify failed: {type(error).__name__}: {str(error)[:200]}"
    return {"value": False} if failure is None else {"error": failure}


def _parse(text: str) -> list[Any]:
    """Add delimiters to bare LaTeX; math-verify would otherwise read `2\\sqrt{3}` as 2."""
    text = text.strip()
    bare = _BARE.fullmatch(text) and not _DELIMITED.search(text) and not _NUMERIC.fullmatch(text)
    expressions = parse(f"${text}$", parsing_timeout=None) if bare else []
    return list(expressions or parse(text, parsing_timeout=None))


for _answer in (r"\boxed{\frac{1}{2}}", r"$x^2 + \sqrt{3}$", "the answer is 0.5"):
    check(r"$\frac{2}{4}$", _answer)  # fill the parser's caches, which forked workers inherit
