"""Evaluation of held-out pairs: the loss, and how often and by how much the preferred answer has the higher reward."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker.training.model import Policy
from worker.training.out_of_memory import TokenBudget
from worker.training.preference import PairLoss
from worker.training.reference import HELD_OUT, Reference, score_within_memory
from worker.training.types import Prompt

ByRow = dict[str, list[float | None]]
"""The values of each metric, one per row."""


@dataclass(frozen=True)
class HeldOutPairs:
    """Scores the pairs of held-out rows."""

    loss: PairLoss
    reference: Reference
    budget: TokenBudget
    file: str = HELD_OUT
    """The part of the reference that has the rows."""

    def scores(self, policy: Policy, prompts: Sequence[Prompt]) -> list[Mapping[str, float]]:
        """Returns `eval/loss`, `eval/rewards/*` and `eval/logps/*` of each row; none for a row without a pair."""
        paired = [prompt for prompt in prompts if prompt.pair is not None]
        scored = score_within_memory(policy, paired, self.budget)
        before = [self.reference.of(self.file, prompt) for prompt in paired]
        found = self.loss.held_out(list(zip(scored, before, strict=True)))
        by_line = {prompt.line: metrics for prompt, metrics in zip(paired, found, strict=True)}
        return [by_line.get(prompt.line, {}) for prompt in prompts]


def metrics_by_row(rows: Sequence[Mapping[str, float]]) -> ByRow:
    """Returns the values of each metric by row, None for a row without it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
