"""Compares what chat templates write by words, so that a mark such as `</tool_call>` is never cut in two."""

import re
from typing import Final

from app.core.chat.continuation import common_length

_WORD: Final = re.compile(r"\s+|<[^<>\s]*>?|\w+|.", re.DOTALL)


def common_start(one: str, other: str) -> str:
    """Return the words that both texts start with."""
    first, second = _WORD.findall(one), _WORD.findall(other)
    return "".join(first[: common_length(first, second)])


def common_end(one: str, other: str) -> str:
    """Return the words that both texts end with."""
    first, second = _WORD.findall(one)[::-1], _WORD.findall(other)[::-1]
    return "".join(first[: common_length(first, second)][::-1])
