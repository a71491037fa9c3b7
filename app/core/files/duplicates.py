"""Finds duplicate rows in one file, and prompts that two files share, by 64-bit hashes instead of texts.

Among a million (2**20) different rows, two get the same 64-bit hash with a probability of about 2**39 / 2**64, or 3e-8:
too rare to matter for a warning. In return a row costs 24 bytes, however long its text is.
"""

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from app.core.spec.rows import Row

_BUCKETS: Final = 64
"""Duplicates are found one bucket at a time. A dict of all rows of a large file would take 100 MB."""


def prompt_key(row: Row) -> int:
    """Return a hash of the messages and tools that is the same in every process and on every machine."""
    # repr is faster than JSON, and it is unambiguous here: `parse_row` writes a message's fields in a fixed order.
    text = repr((row.prompt_messages, row.tools))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _own_answer(row: Row) -> str | None:
    if row.preference is not None:
        return repr(row.preference)
    answer = row.demonstration
    if answer is None:
        return None
    return str(answer["content"]) if len(answer) == 2 else repr(answer)


@dataclass(frozen=True)
class DuplicateRow:
    """A line with the same prompt and answers as an earlier line."""

    line: int
    first: int


class DuplicateFinder:
    """Collects the hashes of one file's rows: 12 bytes for each prompt and 12 for each row."""

    def __init__(self) -> None:
        self.prompts = PromptIndex()
        self._buckets = [(array("Q"), array("I")) for _ in range(_BUCKETS)]

    def add(self, line: int, row: Row) -> None:
        prompt = prompt_key(row)
        self.prompts.add(line, prompt)
        answers = tuple([answer.content for answer in row.teacher])
        key = hash((prompt, _own_answer(row), answers)) & 0xFFFF_FFFF_FFFF_FFFF
        keys, lines = self._buckets[key % _BUCKETS]
        keys.append(key)
        lines.append(line)

    def duplicates(self) -> list[DuplicateRow]:
        """Return all duplicates, by line number."""
        duplicates: list[DuplicateRow] = []
        for keys, lines in self._buckets:
            first: dict[int, int] = {}
            for key, line in zip(keys, lines, strict=True):
                seen = first.setdefault(key, line)
                if seen != line:
                    duplicates.append(DuplicateRow(line, seen))
        return sorted(duplicates, key=lambda duplicate: duplicate.line)


class PromptIndex:
    """The hashes of a file's prompts, with their line numbers; 12 bytes a row."""

    def __init__(self, keys: "array[int] | None" = None, lines: "array[int] | None" = None) -> None:
        self._keys = array("Q") if keys is None else keys
        self._lines = array("I") if lines is None else lines

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield hash and line number, in the order of the lines."""
        return zip(self._keys, self._lines, strict=True)

    def add(self, line: int, key: int) -> None:
        self._keys.append(key)
        self._lines.append(line)

    def to_bytes(self) -> bytes:
        """Return the index as it is stored in the database: all hashes, then all line numbers."""
        return self._keys.tobytes() + self._lines.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read an index that `to_bytes` wrote."""
        count = len(data) // 12
        keys, lines = array("Q"), array("I")
        keys.frombytes(data[: 8 * count])
        lines.frombytes(data[8 * count :])
        return cls(keys, lines)

    def shared_with(self, other: "PromptIndex") -> list[tuple[int, int]]:
        """Return a pair for each line whose prompt `other` has too: that line, and the first such line of `other`.

        The set and the dict hold prompts of the smaller index only, so comparing a small held-out file with a large
        training file takes little memory.
        """
        small, large = (self, other) if len(self) <= len(other) else (other, self)
        wanted = {key for key, _ in small}
        lines: dict[int, int] = {}
        for key, line in other if large is other else ((key, line) for key, line in other if key in wanted):
            if key in wanted:
                lines.setdefault(key, line)
        return [(line, lines[key]) for key, line in self if key in lines]
