"""The rewards of a file's answers: their distribution, and the answers with the lowest ones."""

import heapq
from collections import Counter
from typing import Final

from app.core.graders.types import Grade
from app.core.lint.report import GradedAnswer, RewardBin
from app.core.spec.reports import Source

MAX_WORST: Final = 10
MAX_TEXT: Final = 400
MAX_ERROR: Final = 500
BINS: Final = 10
DECIMALS: Final = 9
"""Rewards that differ by less are equal: sums of parts differ by float noise."""


class GradedAnswers:
    """Collects graded answers; keeps only the rewards and the worst answers."""

    def __init__(self) -> None:
        self._rewards = Counter[float]()
        self._worst: list[tuple[float, int, GradedAnswer]] = []
        """A heap, the best of the worst answers first: (minus the reward, minus its number, answer)."""
        self._count = 0

    def add(self, line: int, source: Source, text: str, grade: Grade) -> None:
        """Add an answer of the row on `line`."""
        self._count += 1
        if grade.reward is not None:
            self._rewards[round(grade.reward, DECIMALS)] += 1
        order = float("inf") if grade.reward is None else -grade.reward
        if len(self._worst) == MAX_WORST and (order, -self._count) <= self._worst[0][:2]:
            return
        error = None if grade.error is None else grade.error[:MAX_ERROR]
        answer = GradedAnswer(line=line, source=source, text=text[:MAX_TEXT], reward=grade.reward, error=error)
        heapq.heappush(self._worst, (order, -self._count, answer))
        if len(self._worst) > MAX_WORST:
            heapq.heappop(self._worst)

    def worst(self) -> tuple[GradedAnswer, ...]:
        """Return the worst answers, in the order in which they were added if equally bad."""
        return tuple(answer for _, _, answer in sorted(self._worst, key=lambda entry: entry[:2], reverse=True))

    def distribution(self) -> tuple[RewardBin, ...]:
        """Return each reward with its number of answers, or equal intervals if there are more than `BINS` rewards."""
        if len(self._rewards) <= BINS:
            return tuple(
                RewardBin(start=reward, end=reward, answers=self._rewards[reward]) for reward in sorted(self._rewards)
            )
        least, most = min(self._rewards), max(self._rewards)
        counts = [0] * BINS
        for reward, answers in self._rewards.items():
            counts[min(BINS - 1, int((reward - least) / (most - least) * BINS))] += answers
        edges = [least + (most - least) * place / BINS for place in range(BINS)] + [most]
        return tuple(
            RewardBin(start=start, end=end, answers=count)
            for start, end, count in zip(edges, edges[1:], counts, strict=False)
        )
