"""Finds rows that are there twice, in one file or in two, by 64 bits of a hash for each row. Holds no text."""

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from app.core.spec.rows import Row

_BUCKETS: Final = 64
"""Duplicates are looked for in one bucket after the other: the dict of all rows would need 100 MB."""


def prompt_key(row: Row) -> int:
    """The same for the same messages and tools, on every machine."""
    # repr, because it is fast; `parse_row` writes the fields of a message in one order.
    text = repr((row.prompt_messages, row.tools))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class DuplicateRow:
    """A line that says what an earlier one says."""

    line: int
    first: int


class DuplicateFinder:
    """Collects the rows of one file: 12 bytes for each prompt and 12 for each row."""

    def __init__(self) -> None:
        self.prompts = PromptIndex()
        self._buckets = [(array("Q"), array("L")) for _ in range(_BUCKETS)]

    def add(self, line: int, row: Row) -> None:
        prompt = prompt_key(row)
        self.prompts.add(line, prompt)
        answers = tuple([answer.content for answer in row.teacher])
        key = hash((prompt, row.expert, answers)) & 0xFFFF_FFFF_FFFF_FFFF
        keys, lines = self._buckets[key % _BUCKETS]
        keys.append(key)
        lines.append(line)

    def duplicates(self) -> list[DuplicateRow]:
        """By line."""
        found: list[DuplicateRow] = []
        for keys, lines in self._buckets:
            first: dict[int, int] = {}
            for key, line in zip(keys, lines, strict=True):
                seen = first.setdefault(key, line)
                if seen != line:
                    found.append(DuplicateRow(line, seen))
        return sorted(found, key=lambda repeat: repeat.line)


class PromptIndex:
    """The prompts of a file by hash, with their lines; 12 bytes a row."""

    def __init__(self, keys: "array[int] | None" = None, lines: "array[int] | None" = None) -> None:
        self._keys = array("Q") if keys is None else keys
        self._lines = array("I") if lines is None else lines

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Hash and line, by line."""
        return zip(self._keys, self._lines, strict=True)

    def add(self, line: int, key: int) -> None:
        self._keys.append(key)
        self._lines.append(line)

    def to_bytes(self) -> bytes:
        """For the database."""
        return self._keys.tobytes() + self._lines.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` wrote."""
        count = len(data) // 12
        keys, lines = array("Q"), array("I")
        keys.frombytes(data[: 8 * count])
        lines.frombytes(data[8 * count :])
        return cls(keys, lines)

    def shared_with(self, other: "PromptIndex") -> list[tuple[int, int]]:
        """A line of this file and the first one of `other` with the same prompt, by the former."""
        small, large = (self, other) if len(self) <= len(other) else (other, self)
        wanted = {key for key, _ in small}
        lines: dict[int, int] = {}
        for key, line in other if large is other else ((key, line) for key, line in other if key in wanted):
            if key in wanted:
                lines.setdefault(key, line)
        return [(line, lines[key]) for key, line in self if key in lines]
