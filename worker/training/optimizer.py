"""One optimiser step: the on-policy check, the gradient over micro-batches and ranks, clipping, and AdamW.

Skips a step whose gradient is not finite. `schedule` sets the learning rate, `out_of_memory` halves micro-batches.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch

from worker.training.batching import MicroBatch, micro_batches
from worker.training.distributed import Ranks
from worker.training.loss import kl_estimate, token_loss
from worker.training.model import Policy
from worker.training.out_of_memory import TokenBudget
from worker.training.preference import PairLoss
from worker.training.types import GroupMember, Prompt, PromptGroup

TrainedGroups = Sequence[tuple[Prompt, Sequence[GroupMember]]]
"""Prompts with their members that have a non-zero advantage."""

MAX_GRAD_NORM: Final = 1.0


def new_optimizer(policy: Policy) -> torch.optim.AdamW:
    """Returns AdamW over the adapter, without weight decay. The updater sets the learning rate at each step."""
    return torch.optim.AdamW(list(policy.trained.values()), lr=0.0, weight_decay=0.0, foreach=False)


@dataclass
class UpdateResult:
    """The outcome of one optimiser step."""

    loss: float
    grad_norm: float
    """Before clipping."""
    trained_tokens: int
    """N, the denominator of the loss (except of pairs)."""
    packed_tokens: int
    """Tokens that this rank sent through the model; a shared prefix counts once."""
    prefix_dedup_ratio: float | None
    """Tokens without prefix sharing over tokens with it; None without a forward pass."""
    applied: bool
    """False when no member had a gradient, or the gradient was not finite."""


class _Totals(NamedTuple):
    """Sums over the micro-batches of this rank."""

    loss: float
    packed_tokens: int
    unshared_tokens: int


class Updater:
    """Turns graded groups into one optimiser step, identical on all ranks."""

    def __init__(
        self,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        *,
        tau: float,
        temperature: float,
        zero_variance: str,
        kl_coefficient: float,
        token_budget: int,
        on_shrink: Callable[[int], None],
        ranks: Ranks | None = None,
        pair_loss: PairLoss | None = None,
    ) -> None:
        """`token_budget` is in packed tokens per micro-batch; `on_shrink` receives each smaller budget after an
        out-of-memory error. With `pair_loss`, every group is a pair and the loss compares its answers."""
        self.policy = policy
        self.optimizer = optimizer
        self.tau = tau
        self.temperature = temperature
        self.zero_variance = zero_variance
        self.kl_coefficient = kl_coefficient
        self.token_budget = TokenBudget(token_budget, on_shrink)
        self.ranks = ranks or Ranks()
        self.pair_loss = pair_loss

    def update(self, groups: list[PromptGroup], rate: float) -> UpdateResult:
        """Takes one optimiser step at learning rate `rate`.

        Members without an advantage cost no forward or backward pass. A step in which no member has a gradient, or
        whose gradient is not finite, leaves adapter and optimiser unchanged. Raises `RuntimeError` for a rollout of
        another adapter version.
        """
        check_on_policy(groups, self.policy.version)
        # N counts the tokens of the whole step, over all ranks and micro-batches. Dividing each micro-batch by its own
        # tokens instead would weigh a token by the batch it happened to fall into.
        tokens = self.ranks.sum(self.denominator(groups))
        denominator = tokens if self.pair_loss is None else self.ranks.sum(len(groups))
        trained = [(group.prompt, kept) for group in groups if (kept := [m for m in group.graded if m.advantage])]
        self.optimizer.zero_grad(set_to_none=True)
        if not self.ranks.sum(len(trained)):
            return UpdateResult(0.0, 0.0, tokens, 0, None, applied=False)
        # A rank with nothing to train still joins the gradient sum, or the other ranks would wait for it.
        totals = self._accumulate_within_memory(trained, denominator) if trained else _Totals(0.0, 0, 0)
        # All ranks divide by the same N, so the gradient of the step is the sum over ranks, not the mean.
        self.ranks.sum_gradients(self.policy.trained.values())
        loss = sum(self.ranks.gather(totals.loss))
        norm = float(torch.nn.utils.clip_grad_norm_(list(self.policy.trained.values()), MAX_GRAD_NORM))
        is_non_finite = not math.isfinite(norm)
        if not is_non_finite:  # one NaN would stay in AdamW's moments for the rest of the run
            self._step(rate)
        self.optimizer.zero_grad(set_to_none=True)
        dedup = totals.unshared_tokens / totals.packed_tokens if totals.packed_tokens else None
        return UpdateResult(loss, norm, tokens, totals.packed_tokens, dedup, applied=not is_non_finite)

    def denominator(self, groups: list[PromptGroup]) -> int:
        """Returns N: the tokens of all graded members. Zero-variance groups count unless `zero_variance` is "drop"."""
        return sum(
            len(member.ids)
            for group in groups
            if not (group.zero_variance and self.zero_variance == "drop")
            for member in group.graded
        )

    def _step(self, rate: float) -> None:
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        self.optimizer.step()

    def _accumulate_within_memory(self, trained: TrainedGroups, denominator: int) -> _Totals:
        return self.token_budget.run(
            lambda tokens: self._accumulate(trained, denominator, tokens),
            shortest=min(
                len(member.context_in(prompt)) + len(member.ids) for prompt, members in trained for member in members
            ),
            reset=lambda: self.optimizer.zero_grad(set_to_none=True),
        )

    def _accumulate(self, trained: TrainedGroups, denominator: int, token_budget: int) -> _Totals:
        """Adds up the gradient of all micro-batches in `.grad` and returns their totals."""
        loss, packed, unshared = 0.0, 0, 0
        is_paired = self.pair_loss is not None
        for batch in micro_batches(trained, token_budget, self.policy.device, atomic=is_paired):
            loss += self._backward(batch, denominator)
            packed += batch.packed.ids_1_T.numel()
            unshared += batch.unshared_tokens
        return _Totals(loss, packed, unshared)

    def _backward(self, batch: MicroBatch, denominator: int) -> float:
        """Adds the gradient of one micro-batch and returns its share of the loss."""
        logprobs_N, entropies_N = self.policy.logprobs(batch.packed, self.temperature)
        if self.pair_loss is None:
            loss, kl_N = self._token_loss(batch, logprobs_N, denominator)
        else:
            loss, kl_N = self.pair_loss(batch, logprobs_N, denominator), None
        loss.backward()
        self._annotate(batch, logprobs_N.detach(), entropies_N, None if kl_N is None else kl_N.detach())
        return float(loss.detach())

    def _token_loss(
        self, batch: MicroBatch, logprobs_N: torch.Tensor, denominator: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns - sum A C(p) log p / N plus the KL term, and the KL estimate of each token if the job has one."""
        packed = batch.packed
        # Every token of a response carries the advantage of its response.
        advantages_B = logprobs_N.new_tensor([member.advantage for _, member in batch.sequences])
        advantages_N = advantages_B[packed.response_N]
        loss = token_loss(logprobs_N, advantages_N, torch.ones_like(logprobs_N), self.tau, denominator)
        kl_N = None
        if self.kl_coefficient:
            with torch.no_grad(), self.policy.base_only():
                reference_N, _ = self.policy.logprobs(packed, self.temperature)
            kl_N = kl_estimate(logprobs_N, reference_N)
            loss = loss + self.kl_coefficient * kl_N.sum() / denominator
        return loss, kl_N

    def _annotate(
        self, batch: MicroBatch, logprobs_N: torch.Tensor, entropies_N: torch.Tensor, kl_N: torch.Tensor | None
    ) -> None:
        """Stores per-member statistics; the update has computed all of them anyway."""
        start = 0
        for _, member in batch.sequences:
            span = slice(start, start + len(member.ids))
            start = span.stop
            p = logprobs_N[span].exp()
            member.mean_nll = float(-logprobs_N[span].mean())
            member.mean_p = float(p.mean())
            member.rectified_frac = float((p < self.tau).float().mean())
            member.entropy = float(entropies_N[span].mean())
            member.kl = None if kl_N is None else float(kl_N[span].mean())
            member.trainer_logprobs = logprobs_N[span].tolist()


def check_on_policy(groups: list[PromptGroup], version: int) -> None:
    """Raises `RuntimeError` unless every rollout was sampled by adapter `version`.

    The loss has no importance ratio: p is the policy's own only for rollouts of the current adapter.
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
