"""Log-probabilities of a step's rollouts under the starting policy, the reference of the KL divergence."""

from collections.abc import Sequence

import torch

from worker.training.batching import micro_batches
from worker.training.model import Policy
from worker.training.out_of_memory import TokenBudget
from worker.training.types import GroupMember, Prompt


def score_reference(
    policy: Policy, rollouts: Sequence[tuple[Prompt, Sequence[GroupMember]]], temperature: float, budget: TokenBudget
) -> None:
    """Sets `reference_logprobs` of all rollouts; smaller micro-batches follow an out-of-memory error."""
    if not rollouts:
        return
    with policy.starting():
        budget.run(
            lambda tokens: _score(policy, rollouts, temperature, tokens),
            shortest=min(len(prompt.ids) + len(member.ids) for prompt, members in rollouts for member in members),
            reset=lambda: None,
        )


@torch.no_grad()
def _score(
    policy: Policy, rollouts: Sequence[tuple[Prompt, Sequence[GroupMember]]], temperature: float, tokens: int
) -> None:
    for batch in micro_batches(rollouts, tokens, policy.device, shared=policy.is_fast):
        logprobs_N, _ = policy.logprobs(batch.packed, temperature)
        lengths = [len(member.ids) for _, member in batch.sequences]
        for (_, member), values in zip(batch.sequences, logprobs_N.split(lengths), strict=True):
            member.reference_logprobs = values.tolist()
