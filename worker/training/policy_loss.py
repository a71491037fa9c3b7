"""The policy loss of a step: which answers it trains, what its terms are divided by, and the terms of a micro-batch.

`loss` has the formulas.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from app.core.spec.policy_loss import Normalization
from app.core.spec.reports import Source
from worker.training.batching import MicroBatch
from worker.training.loss import (
    answer_weight,
    clipped_loss,
    coefficient,
    denominator,
    importance_weights,
    kl_penalty,
    token_loss,
)
from worker.training.types import GroupMember, PromptGroup


class Divisors(NamedTuple):
    """What the terms of the loss are divided by, over the whole step: all its micro-batches and ranks."""

    policy: int
    """N: by default the tokens of all answers in the loss."""
    kl: int
    """The same of all rollouts."""
    groups: int


class Terms(NamedTuple):
    """The loss of one micro-batch."""

    loss: Tensor
    """Its share of the step's loss, a scalar."""
    kl_N: Tensor | None = None
    """The estimated KL divergence of each token, without gradient; 0 for tokens that are no rollout's."""
    importance_N: Tensor | None = None
    """The importance weight of each token; 1 for tokens that are no rollout's."""
    clipped_low: int = 0
    clipped_high: int = 0


@dataclass(frozen=True)
class PolicyLoss:
    """The loss of a step's answers, and of its rollouts' divergence from the starting policy.

        L = - sum A C(p) w log p / N  +  beta KL

    w is the importance weight. With `clip`, the first term is PPO's, in all updates on a batch. All of w, C and A are
    constants of the policy before the first update.
    """

    tau: float
    zero_variance: str = "count"
    """Whether groups without contrast count in N ("count") or not ("drop")."""
    kl_coefficient: float = 0.0
    """beta."""
    normalization: Normalization = "token"
    max_tokens: int = 1
    """Longest rollout, for the normalisation by a constant."""
    mask_truncated: bool = False
    """Whether rollouts that were cut off are left out."""
    pushes_down_all: bool = True
    """Whether answers that the policy did not write have a gradient if their advantage is negative."""
    importance_cap: float | None = None
    """The largest importance weight; None for no weights."""
    clip: tuple[float, float] | None = None
    """Bounds of the probability ratio, below and above 1; None for a single update, whose ratio is 1."""

    def is_masked(self, member: GroupMember) -> bool:
        """Returns whether an answer is left out of the loss although it is in its group."""
        return self.mask_truncated and member.source is Source.self and not member.finished

    def is_spared(self, member: GroupMember) -> bool:
        """Returns whether an answer that should become less likely is left out of the gradient."""
        return not self.pushes_down_all and member.source is not Source.self and (member.advantage or 0.0) < 0

    def counted(self, group: PromptGroup) -> list[GroupMember]:
        """Returns the answers that count in N."""
        if group.zero_variance and self.zero_variance == "drop":
            return []
        return [member for member in group.graded if not self.is_masked(member)]

    def rollouts(self, group: PromptGroup) -> list[GroupMember]:
        """Returns the answers whose KL divergence is in the loss: all rollouts, whatever their rewards.

        Answers of other sources were not drawn from the policy, so they estimate nothing.
        """
        if not self.kl_coefficient:
            return []
        return [member for member in group.members if member.source is Source.self and not self.is_masked(member)]

    def trained(self, group: PromptGroup) -> list[GroupMember]:
        """Returns the answers with a gradient, in the order of the group; others cost no forward or backward pass."""
        kept = {id(member) for member in self.rollouts(group)}
        kept |= {id(member) for member in self.counted(group) if member.advantage and not self.is_spared(member)}
        return [member for member in group.members if id(member) in kept]

    def divisors(self, groups: Sequence[PromptGroup]) -> Divisors:
        """Returns the share of `groups` in the step's divisors."""
        return Divisors(
            policy=self._denominator(member for group in groups for member in self.counted(group)),
            kl=self._denominator(member for group in groups for member in self.rollouts(group)),
            groups=len(groups),
        )

    def tokens(self, groups: Sequence[PromptGroup]) -> int:
        """Returns the tokens of all answers that count in the loss."""
        return sum(len(member.ids) for group in groups for member in self.counted(group))

    def __call__(self, batch: MicroBatch, logprobs_N: Tensor, divisors: Divisors) -> Terms:
        """Returns the terms of a micro-batch; logprobs_N is log p of each trained token.

        `trainer_logprobs` of its members are empty in the first update on a batch, and log p in the first one later.
        """
        members = [member for _, member in batch.sequences]
        of_N = batch.packed.response_N
        share_B = logprobs_N.new_tensor([answer_weight(len(member.ids), self.normalization) for member in members])
        # Every token of a response carries the advantage of its response.
        advantages_B = logprobs_N.new_tensor([member.advantage or 0.0 for member in members])
        old_N = logprobs_N.detach()
        if self.clip is not None:  # else this is the only update
            old_N = _per_token([member.trainer_logprobs for member in members], members, old_N)
        importance_N = None
        weights_N = (advantages_B * share_B)[of_N]
        if self.importance_cap is not None:
            sampled_N = _per_token([member.sampled_logprobs for member in members], members, old_N)
            importance_N = importance_weights(old_N, sampled_N, self.importance_cap)
            weights_N = weights_N * importance_N
        policy = max(1, divisors.policy)  # 0 if nothing counts and only the divergence is trained
        low = high = 0
        if self.clip is None:
            loss = token_loss(logprobs_N, weights_N, (weights_N != 0).to(weights_N.dtype), self.tau, policy)
        else:
            weights_N = weights_N * coefficient(old_N, self.tau)
            loss, low, high = clipped_loss(logprobs_N, old_N, weights_N, self.clip, policy)
        if not self.kl_coefficient:
            return Terms(loss, None, importance_N, low, high)
        reference_N = _per_token([member.reference_logprobs for member in members], members, logprobs_N)
        kl_N = kl_penalty(logprobs_N, reference_N)
        loss = loss + self.kl_coefficient * (kl_N * share_B[of_N]).sum() / max(1, divisors.kl)
        return Terms(loss, kl_N.detach(), importance_N, low, high)

    def _denominator(self, members: Iterable[GroupMember]) -> int:
        return denominator([len(member.ids) for member in members], self.normalization, self.max_tokens)


def _per_token(values: Sequence[Sequence[float]], members: Sequence[GroupMember], default_N: Tensor) -> Tensor:
    """Returns the values of all members as [N]; those of `default_N`, without gradient, for members without values."""
    filled = [one or [math.nan] * len(member.ids) for one, member in zip(values, members, strict=True)]
    found_N = default_N.new_tensor([value for one in filled for value in one])
    return torch.where(found_N.isnan(), default_N.detach(), found_N)
