"""reasoning-gym's verifiers. Some of them would evaluate an answer as Python: that is refused here."""

import json
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from reasoning_gym import create_dataset

Verify = Callable[[str, dict[str, Any]], float]


class _Watch:
    """Sees and prevents that text is run as code while a verifier works."""

    active = False
    refused = False

    @classmethod
    def hear(cls, event: str, arguments: tuple[Any, ...]) -> None:
        # `eval` and `exec` of a text; modules that are imported, and functions that libraries make, have other names.
        if event == "exec" and cls.active and getattr(arguments[0], "co_filename", "") == "<string>":
            cls.refused = True
            raise RuntimeError("text is not run as code here")


sys.addaudithook(_Watch.hear)


def check(entry: dict[str, Any], answer: str) -> dict[str, Any]:
    """The verifier's reward, from 0 to 1; an error where it would have to run text as code."""
    verify = _verifier(str(entry["dataset"]), json.dumps(entry.get("config") or {}))
    _Watch.active, _Watch.refused = True, False
    try:
        reward = verify(answer, entry)
    finally:
        _Watch.active = False
    if _Watch.refused:
        return {"error": f"the verifier of {entry['dataset']} runs answers as code, which is refused"}
    return {"value": float(reward)}


@lru_cache(maxsize=8)
def _verifier(name: str, config: str) -> Verify:
    verify: Verify = create_dataset(name, **json.loads(config)).score_answer
    return verify
