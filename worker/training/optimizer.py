"""AdamW over the adapter, the learning-rate schedule and the update of one optimiser step."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from worker.training.batching import MicroBatch, micro_batches
from worker.training.distributed import Ranks
from worker.training.loss import kl_estimate, token_loss
from worker.training.model import Policy
from worker.training.out_of_memory import is_out_of_memory
from worker.training.types import GroupMember, Prompt, PromptGroup

Live = Sequence[tuple[Prompt, Sequence[GroupMember]]]
"""Prompts with those of their members that have an advantage."""

WARMUP_SHARE: Final = 0.03
MAX_GRAD_NORM: Final = 1.0


def learning_rate(step: int, total_steps: int, peak: float, schedule: str) -> float:
    """Rate of step 1..total: linear warm-up over the first 3 %, then constant or a cosine to a tenth."""
    warmup = max(1, math.ceil(WARMUP_SHARE * total_steps))
    if step <= warmup:
        return peak * step / warmup
    if schedule == "constant":
        return peak
    progress = (step - warmup) / max(1, total_steps - warmup)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def new_optimizer(policy: Policy) -> torch.optim.AdamW:
    """AdamW without weight decay; the learning rate is set at each step."""
    return torch.optim.AdamW(list(policy.trained.values()), lr=0.0, weight_decay=0.0, foreach=False)


@dataclass
class UpdateResult:
    """What one optimiser step did."""

    loss: float
    grad_norm: float
    trained_tokens: int
    """N, the denominator."""
    packed_tokens: int
    """Tokens that went through the model in this process, shared ones once."""
    prefix_dedup_ratio: float | None
    """Tokens without prefix sharing over tokens with it; None without a forward pass."""
    applied: bool
    """False when nothing had a gradient or a gradient was not finite."""


class Updater:
    """Turns graded groups into one optimiser step, the same in all processes of `ranks`."""

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
    ) -> None:
        """`on_shrink` is told the new `token_budget` when a micro-batch did not fit into memory."""
        self.policy = policy
        self.optimizer = optimizer
        self.tau = tau
        self.temperature = temperature
        self.zero_variance = zero_variance
        self.kl_coefficient = kl_coefficient
        self.token_budget = token_budget
        self.on_shrink = on_shrink
        self.ranks = ranks or Ranks()

    def denominator(self, groups: list[PromptGroup]) -> int:
        """N: tokens of all graded members of the step; groups without contrast count unless told to drop."""
        return sum(
            len(member.ids)
            for group in groups
            if not (group.zero_variance and self.zero_variance == "drop")
            for member in group.graded
        )

    def update(self, groups: list[PromptGroup], rate: float) -> UpdateResult:
        """One optimiser step at learning rate `rate`.

        Members without advantage cost no forward or backward pass. A step without any gradient, or with a non-finite
        one, leaves adapter and optimiser untouched. Raises `RuntimeError` for a rollout of another adapter version.
        """
        self._assert_on_policy(groups)
        tokens = self.ranks.sum(self.denominator(groups))
        live = [(group.prompt, trained) for group in groups if (trained := [m for m in group.graded if m.advantage])]
        self.optimizer.zero_grad(set_to_none=True)
        if not self.ranks.sum(len(live)):
            return UpdateResult(0.0, 0.0, tokens, 0, None, applied=False)
        loss, packed, unshared = self._within_memory(live, tokens) if live else (0.0, 0, 0)
        dedup = unshared / packed if packed else None
        self.ranks.sum_gradients(self.policy.trained.values())
        loss = sum(self.ranks.gather(loss))
        norm = float(torch.nn.utils.clip_grad_norm_(list(self.policy.trained.values()), MAX_GRAD_NORM))
        if not math.isfinite(norm):
            self.optimizer.zero_grad(set_to_none=True)
            return UpdateResult(loss, norm, tokens, packed, dedup, applied=False)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return UpdateResult(loss, norm, tokens, packed, dedup, applied=True)

    def _within_memory(self, live: Live, tokens: int) -> tuple[float, int, int]:
        """Loss, packed and unshared tokens of all micro-batches, which shrink until they fit into memory."""
        while True:
            try:
                return self._accumulate(live, tokens)
            except (MemoryError, RuntimeError) as error:
                smallest = min(len(prompt.ids) + len(member.ids) for prompt, members in live for member in members)
                if not is_out_of_memory(error) or self.token_budget <= smallest:
                    raise
            # Outside of the except clause, whose exception keeps the failed batch's tensors alive.
            self.optimizer.zero_grad(set_to_none=True)
            if self.policy.device.type == "cuda":
                torch.cuda.empty_cache()
            self.token_budget //= 2
            self.on_shrink(self.token_budget)

    def _accumulate(self, live: Live, tokens: int) -> tuple[float, int, int]:
        loss, packed, unshared = 0.0, 0, 0
        for batch in micro_batches(live, self.token_budget, self.policy.device):
            loss += self._backward(batch, tokens)
            packed += batch.packed.ids_1_T.numel()
            unshared += batch.unshared_tokens
        return loss, packed, unshared

    def _assert_on_policy(self, groups: list[PromptGroup]) -> None:
        for member in all_members(groups):
            if member.adapter_version not in (None, self.policy.version):
                raise RuntimeError(
                    f"a rollout of adapter version {member.adapter_version} came to the update of version "
                    f"{self.policy.version}: its log-probabilities are not the policy's"
                )

    def _backward(self, batch: MicroBatch, tokens: int) -> float:
        packed = batch.packed
        logprobs_N, entropies_N = self.policy.logprobs(packed, self.temperature)
        advantages_B = logprobs_N.new_tensor([member.advantage for _, member in batch.sequences])
        advantages_N = advantages_B[packed.response_N]
        loss = token_loss(logprobs_N, advantages_N, torch.ones_like(logprobs_N), self.tau, tokens)
        kl_N = None
        if self.kl_coefficient:
            with torch.no_grad(), self.policy.base_only():
                reference_N, _ = self.policy.logprobs(packed, self.temperature)
            kl_N = kl_estimate(logprobs_N, reference_N)
            loss = loss + self.kl_coefficient * kl_N.sum() / tokens
        loss.backward()
        self._annotate(batch, logprobs_N.detach(), entropies_N, None if kl_N is None else kl_N.detach())
        return float(loss.detach())

    def _annotate(
        self, batch: MicroBatch, logprobs_N: torch.Tensor, entropies_N: torch.Tensor, kl_N: torch.Tensor | None
    ) -> None:
        """Writes per-member statistics, seen for free in the same pass."""
        start = 0
        for _, member in batch.sequences:
            mine = slice(start, start + len(member.ids))
            start = mine.stop
            p = logprobs_N[mine].exp()
            member.mean_nll = float(-logprobs_N[mine].mean())
            member.mean_p = float(p.mean())
            member.rectified_frac = float((p < self.tau).float().mean())
            member.entropy = float(entropies_N[mine].mean())
            member.kl = None if kl_N is None else float(kl_N[mine].mean())
            member.trainer_logprobs = logprobs_N[mine].tolist()


def all_members(groups: list[PromptGroup]) -> list[GroupMember]:
    """Every member of every group, in order."""
    return [member for group in groups for member in group.members]
