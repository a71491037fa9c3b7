"""One optimiser step: the on-policy check, the gradient over micro-batches and ranks, clipping, and AdamW.

Skips a step whose gradient is not finite. `schedule` sets the learning rate, `out_of_memory` halves micro-batches.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from worker.training.batching import MicroBatch, micro_batches
from worker.training.distributed import Ranks
from worker.training.kl_reference import score_reference
from worker.training.model import Policy
from worker.training.out_of_memory import TokenBudget
from worker.training.policy_loss import Divisors, PolicyLoss, Terms
from worker.training.preference import PairLoss
from worker.training.types import GroupMember, Prompt, PromptGroup

TrainedGroups = Sequence[tuple[Prompt, Sequence[GroupMember]]]
"""Prompts with their members that get a forward and a backward pass."""

MAX_GRAD_NORM: Final = 1.0


def new_optimizer(policy: Policy) -> torch.optim.AdamW:
    """Returns AdamW over the adapter, without weight decay. The updater sets the learning rate at each step."""
    # One kernel instead of about ten for each tensor. A CPU gains nothing, and its bits must not change.
    is_fused = policy.device.type == "cuda"
    return torch.optim.AdamW(
        list(policy.trained.values()), lr=0.0, weight_decay=0.0, foreach=False, fused=is_fused or None
    )


@dataclass
class UpdateResult:
    """The outcome of one optimiser step."""

    loss: float
    grad_norm: float
    """Before clipping."""
    trained_tokens: int
    """Tokens of all answers that count in the loss, also of groups that need no pass."""
    packed_tokens: int
    """Tokens that this rank sent through the model; a shared prefix counts once."""
    prefix_dedup_ratio: float | None
    """Tokens without prefix sharing over tokens with it; None without a forward pass."""
    applied: bool
    """False when no member had a gradient, or the gradient was not finite."""
    computed_tokens: int = 0
    """Tokens of all ranks' answers that got a forward and a backward pass, in all updates."""
    clipped_low: int = 0
    """Tokens of all ranks whose probability ratio was below the clip, so that they had no gradient."""
    clipped_high: int = 0


class _Totals(NamedTuple):
    """Sums over the micro-batches of this rank."""

    loss: float
    packed_tokens: int
    unshared_tokens: int
    clipped_low: int = 0
    clipped_high: int = 0


class _Scored(NamedTuple):
    """The numbers of one micro-batch after its backward pass, on the policy's device."""

    members: Sequence[GroupMember]
    loss: Tensor
    logprobs_N: Tensor
    entropies_N: Tensor
    kl_N: Tensor | None
    importance_N: Tensor | None
    packed_tokens: int
    unshared_tokens: int
    clipped_low: int
    clipped_high: int


class Updater:
    """Turns graded groups into one optimiser step, identical on all ranks."""

    def __init__(
        self,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        *,
        loss: PolicyLoss,
        temperature: float,
        token_budget: int,
        on_shrink: Callable[[int], None],
        ranks: Ranks | None = None,
        pair_loss: PairLoss | None = None,
    ) -> None:
        """`token_budget` is in packed tokens per micro-batch; `on_shrink` receives each smaller budget after an
        out-of-memory error. With `pair_loss`, every group is a pair and this loss compares its answers."""
        self.policy = policy
        self.optimizer = optimizer
        self.loss = loss
        self.temperature = temperature
        self.token_budget = TokenBudget(token_budget, on_shrink, can_shrink=policy.sharded is None)
        self.ranks = ranks or Ranks()
        self.pair_loss = pair_loss

    def update(self, groups: list[PromptGroup], rate: float, number: int = 0) -> UpdateResult:
        """Takes one optimiser step at learning rate `rate`: update `number`, from 0, on these groups.

        Members without a term in the loss cost no forward or backward pass. A step in which no member has a gradient,
        or whose gradient is not finite, leaves adapter and optimiser unchanged. Raises `RuntimeError` for a rollout of
        another adapter version.
        """
        check_on_policy(groups, self.policy.version)
        # Divisors count the whole step, over all ranks and micro-batches. Dividing each micro-batch by its own tokens
        # instead would weigh a token by the batch it happened to fall into.
        trained = [(group.prompt, kept) for group in groups if (kept := self.loss.trained(group))]
        own = sum(len(member.ids) for _, members in trained for member in members)
        tokens, computed, *parts = self.ranks.sums(self.loss.tokens(groups), own, *self.loss.divisors(groups))
        divisors = Divisors(*parts)
        if number == 0:
            self._begin(groups)
        self.optimizer.zero_grad(set_to_none=True)
        if not computed:
            return UpdateResult(0.0, 0.0, tokens, 0, None, applied=False)
        # A rank with nothing to train still joins the gradient sum, or the other ranks would wait for it.
        with self.policy.lockstep(gradients=True):
            totals = self._accumulate_within_memory(trained, divisors, number) if trained else _Totals(0.0, 0, 0)
        # All ranks divide by the same N, so the gradient of the step is the sum over ranks, not the mean.
        self.ranks.sum_gradients(self.policy.trained.values())
        shares = self.ranks.gather(totals)
        norm = float(torch.nn.utils.clip_grad_norm_(list(self.policy.trained.values()), MAX_GRAD_NORM))
        is_non_finite = not math.isfinite(norm)
        if not is_non_finite:  # one NaN would stay in AdamW's moments for the rest of the run
            self._step(rate)
        self.optimizer.zero_grad(set_to_none=True)
        dedup = totals.unshared_tokens / totals.packed_tokens if totals.packed_tokens else None
        return UpdateResult(
            sum(share.loss for share in shares),
            norm,
            tokens,
            totals.packed_tokens,
            dedup,
            applied=not is_non_finite,
            computed_tokens=computed,
            clipped_low=sum(share.clipped_low for share in shares),
            clipped_high=sum(share.clipped_high for share in shares),
        )

    def _begin(self, groups: list[PromptGroup]) -> None:
        """Prepares the first update on `groups`: the policy is still the one that sampled them."""
        for member in all_members(groups):
            member.trainer_logprobs = []
        rollouts = [(group.prompt, kept) for group in groups if (kept := self.loss.rollouts(group))]
        with self.policy.lockstep():
            score_reference(self.policy, rollouts, self.temperature, self.token_budget)

    def _step(self, rate: float) -> None:
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        self.optimizer.step()

    def _accumulate_within_memory(self, trained: TrainedGroups, divisors: Divisors, number: int) -> _Totals:
        return self.token_budget.run(
            lambda tokens: self._accumulate(trained, divisors, number, tokens),
            shortest=min(
                len(member.context_in(prompt)) + len(member.ids) for prompt, members in trained for member in members
            ),
            reset=lambda: self.optimizer.zero_grad(set_to_none=True),
        )

    def _accumulate(self, trained: TrainedGroups, divisors: Divisors, number: int, token_budget: int) -> _Totals:
        """Adds up the gradient of all micro-batches in `.grad` and returns their totals."""
        found: list[_Scored] = []
        is_paired, is_fast = self.pair_loss is not None, self.policy.is_fast
        batches = micro_batches(trained, token_budget, self.policy.device, atomic=is_paired, shared=is_fast)
        for batch in batches:
            scored = self._backward(batch, divisors)
            found.append(scored)
        # Numbers are read after the last backward pass, so that the host does not wait for a GPU in between.
        totals = [_Totals(0.0, 0, 0)]
        for scored in found:
            if number == 0:
                self._annotate(scored)
            packed = scored.packed_tokens if is_fast else scored.unshared_tokens
            totals.append(
                _Totals(float(scored.loss), packed, scored.unshared_tokens, scored.clipped_low, scored.clipped_high)
            )
        return _Totals(*map(sum, zip(*totals, strict=True)))

    def _backward(self, batch: MicroBatch, divisors: Divisors) -> "_Scored":
        """Adds the gradient of one micro-batch and returns its numbers."""
        logprobs_N, entropies_N = self.policy.logprobs(batch.packed, self.temperature)
        if self.pair_loss is None:
            terms = self.loss(batch, logprobs_N, divisors)
        else:
            terms = Terms(self.pair_loss(batch, logprobs_N, divisors.groups))
        self.policy.backward(terms.loss)
        return _Scored(
            tuple(member for _, member in batch.sequences),
            terms.loss.detach(),
            logprobs_N.detach(),
            entropies_N,
            terms.kl_N,
            terms.importance_N,
            batch.packed.ids_1_T.numel(),
            batch.unshared_tokens,
            terms.clipped_low,
            terms.clipped_high,
        )

    def _annotate(self, scored: "_Scored") -> None:
        """Stores per-member statistics; the update has computed all of them anyway."""
        # One transfer for all members: reading a number of each from a GPU would wait for it each time.
        logprobs_N, entropies_N = scored.logprobs_N.cpu(), scored.entropies_N.cpu()
        kl_N = None if scored.kl_N is None else scored.kl_N.cpu()
        importance_N = None if scored.importance_N is None else scored.importance_N.cpu()
        start = 0
        for member in scored.members:
            span = slice(start, start + len(member.ids))
            start = span.stop
            p = logprobs_N[span].exp()
            member.mean_nll = float(-logprobs_N[span].mean())
            member.mean_p = float(p.mean())
            member.rectified_frac = float((p < self.loss.tau).float().mean())
            member.entropy = float(entropies_N[span].mean())
            if kl_N is not None and member.reference_logprobs:
                member.kl = float(kl_N[span].mean())
            if importance_N is not None and member.sampled_logprobs:
                weights = importance_N[span]
                member.importance_ratio = float(weights.mean())
                member.importance_truncated = float(weights.eq(self.loss.importance_cap or 0.0).float().mean())
            member.trainer_logprobs = logprobs_N[span].tolist()


def combined(updates: Sequence[UpdateResult]) -> UpdateResult:
    """Returns the outcome of several updates on one batch: means of loss and norm, sums of computed tokens."""
    first = updates[0]
    return UpdateResult(
        math.fsum(one.loss for one in updates) / len(updates),
        sum(one.grad_norm for one in updates) / len(updates),
        first.trained_tokens,
        sum(one.packed_tokens for one in updates),
        first.prefix_dedup_ratio,
        applied=any(one.applied for one in updates),
        computed_tokens=sum(one.computed_tokens for one in updates),
        clipped_low=sum(one.clipped_low for one in updates),
        clipped_high=sum(one.clipped_high for one in updates),
    )


def check_on_policy(groups: list[PromptGroup], version: int) -> None:
    """Raises `RuntimeError` unless every rollout was sampled by adapter `version`.

    The loss takes log p before the first update for that of the policy that sampled.
    """
    for member in all_members(groups):
        if member.adapter_version not in (None, version):
            raise RuntimeError(
                f"a rollout of adapter version {member.adapter_version} reached the update of version {version}: its "
                "log-probabilities are not those of the policy"
            )


def all_members(groups: list[PromptGroup]) -> list[GroupMember]:
    """Returns every member of every group, in order."""
    return [member for group in groups for member in group.members]
