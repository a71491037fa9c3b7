"""Regular expressions, which can backtrack forever on hostile text."""

import re
from typing import Any


def check(pattern: str, text: str, match: str, ignore_case: bool) -> dict[str, Any]:
    """Return whether the pattern matches in the text, or with `match` "full" matches all of it."""
    compiled = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    match_ = compiled.fullmatch(text.strip()) if match == "full" else compiled.search(text)
    return {"value": match_ is not None}
