"""Random conversations as the trainer sees them: for each trained turn its context and its ids."""

from collections.abc import Sequence
from random import Random
from typing import Final

from tests.worker.training import plain
from tests.worker.training.architectures import VOCABULARY
from worker.training.batching import Example

LONGEST: Final = 64
"""Positions that the tiny models have."""


def ids(random: Random, low: int, high: int) -> list[int]:
    return [random.randrange(3, VOCABULARY) for _ in range(random.randint(low, high))]


def conversation(random: Random, turns: int, keep: float = 1.0, system: Sequence[int] = ()) -> list[Example]:
    """A conversation of `turns` turns. `keep`: the share of answers that the history repeats in full.

    Of the other answers the history repeats the end only, like templates that drop the thoughts of earlier turns.
    """
    made: list[Example] = []
    history = [*system, *ids(random, 1, 4)]
    for _ in range(turns):
        answer = ids(random, 1, 5)
        made.append((history, answer))
        kept = answer if random.random() < keep else answer[random.randint(1, len(answer)) :]
        history = [*history, *kept, *ids(random, 1, 3)]
    return made


def mixed(seed: int, system: int = 0) -> list[list[Example]]:
    """Linear and diverging conversations of 2 to 8 turns among rows with one turn."""
    random = Random(seed)  # noqa: S311 - test data
    head = ids(random, system, system)
    shapes = [(2, 1.0), (1, 1.0), (8, 1.0), (3, 0.0), (1, 1.0), (7, 0.5), (5, 0.0)]
    return [conversation(random, turns, keep, head) for turns, keep in shapes]


def alone(groups: Sequence[Sequence[Example]]) -> plain.Groups:
    """The same turns, each as a group of its own for the plain model."""
    return [(context, [answer]) for group in groups for context, answer in group]
