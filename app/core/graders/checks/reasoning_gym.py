"""reasoning-gym's verifiers. Some evaluate an answer as Python code; this module refuses that."""

import json
import sys
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

with warnings.catch_warnings(action="ignore", category=SyntaxWarning):  # as Python compiles cellpylib
    from reasoning_gym import create_dataset

Verify = Callable[[str, dict[str, Any]], float]


class _ExecGuard:
    """Detects and prevents the execution of text as code while a verifier runs."""

    active = False
    refused = False

    @classmethod
    def audit(cls, event: str, arguments: tuple[Any, ...]) -> None:
        # Code from `eval` and `exec` of text has this file name; imported modules and generated functions do not.
        if event == "exec" and cls.active and getattr(arguments[0], "co_filename", "") == "<string>":
            cls.refused = True
            raise RuntimeError("running text as code is not allowed here")


sys.addaudithook(_ExecGuard.audit)


def check(entry: dict[str, Any], answer: str) -> dict[str, Any]:
    """Return the verifier's reward, from 0 to 1, or an error if it tries to run text as code."""
    verify = _verifier(str(entry["dataset"]), json.dumps(entry.get("config") or {}))
    _ExecGuard.active, _ExecGuard.refused = True, False
    try:
        reward = verify(answer, entry)
    finally:
        _ExecGuard.active = False
    if _ExecGuard.refused:
        return {"error": f"the verifier of {entry['dataset']} tried to run the answer as code, which is not allowed"}
    return {"value": float(reward)}


@lru_cache(maxsize=8)
def _verifier(name: str, config: str) -> Verify:
    verify: Verify = create_dataset(name, **json.loads(config)).score_answer
    return verify
