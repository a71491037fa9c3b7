"""Graders in the types of OpenAI's SDK, for clients that validate responses against them."""

from typing import Any, Final

_LEAVES: Final = frozenset({"string_check", "text_similarity", "score_model", "python"})
_PARTS: Final = _LEAVES | {"label_model"}
"""Types that a `multi` grader of the SDK can contain."""


def as_openai(grader: dict[str, Any]) -> dict[str, Any]:
    """Return the grader in a form that the SDK's types accept: the same if they have its type.

    The SDK's `multi` has one grader in the place of all, so the first part stands there. A grader that the SDK does not
    know becomes a `python` grader without a function.
    """
    if grader["type"] != "multi":
        return _leaf(grader, _LEAVES)
    return grader | {"graders": _leaf(next(iter(grader["graders"].values())), _PARTS)}


def as_openai_criterion(grader: dict[str, Any]) -> dict[str, Any]:
    """Return a criterion of an eval in a form that the SDK's types accept. They have no `multi`."""
    shown = _leaf(grader, _PARTS)
    # Required by the SDK's type of this criterion alone.
    return shown | {"pass_threshold": shown.get("pass_threshold", 1.0)} if shown["type"] == "text_similarity" else shown


def _leaf(grader: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    if grader["type"] in known:
        return grader
    source = f"# Stands for a grader of type {grader['type']}, which OpenAI's SDK does not know."
    return {"type": "python", "name": grader["name"], "source": source}
