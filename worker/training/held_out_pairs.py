"""Evaluation of held-out pairs: the loss, and how often and by how much the preferred answer has the higher reward."""

from collections.abc import Sequence
from dataclasses import dataclass

from worker.training.model import Policy
from worker.training.out_of_memory import TokenBudget
from worker.training.preference import PairLoss
from worker.training.reference import HELD_OUT, Reference, score_within_memory
from worker.training.types import Prompt


@dataclass(frozen=True)
class HeldOutPairs:
    """Scores the pairs of held-out rows."""

    loss: PairLoss
    reference: Reference
    budget: TokenBudget

    def values(self, policy: Policy, prompts: Sequence[Prompt]) -> dict[str, float | None]:
        """Returns `eval/loss`, `eval/rewards/*` and `eval/logps/*` of the rows that have a pair; empty without any."""
        paired = [prompt for prompt in prompts if prompt.pair is not None]
        if not paired:
            return {}
        scored = score_within_memory(policy, paired, self.budget)
        before = [self.reference.of(HELD_OUT, prompt) for prompt in paired]
        return self.loss.held_out(list(zip(scored, before, strict=True)))
