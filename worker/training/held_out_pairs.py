"""Evaluation of held-out pairs: the loss, and how often and by how much the preferred answer has the higher reward."""

from collections.abc import Sequence
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

    def scores(self, policy: Policy, prompts: Sequence[Prompt]) -> ByRow:
        """Returns `eval/loss`, `eval/rewards/*` and `eval/logps/*` of each row; None for a row without a pair.

        Empty if no row has one.
        """
        paired = [prompt for prompt in prompts if prompt.pair is not None]
        if not paired:
            return {}
        scored = score_within_memory(policy, paired, self.budget)
        before = [self.reference.of(self.file, prompt) for prompt in paired]
        by_line = dict(
            zip(
                (prompt.line for prompt in paired),
                self.loss.held_out(list(zip(scored, before, strict=True))),
                strict=True,
            )
        )
        names = next(iter(by_line.values()))
        return {name: [by_line.get(prompt.line, {}).get(name) for prompt in prompts] for name in names}
